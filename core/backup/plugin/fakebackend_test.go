package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// fakeBackend is a backend that behaves, or misbehaves, as its value says.
type fakeBackend string

// sampleTree returns the tree that fake backends are asked to store.
func sampleTree() backup.Tree {
	return backup.Tree{
		Host: "host-a", Set: "snap", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Roots: []string{"/dat", "/app"},
	}
}

func storedFor(t backup.Tree) backup.Stored {
	return backup.Stored{ID: "20260102T030405Z", Host: t.Host, Set: t.Set, Time: t.Time, Roots: t.Roots}
}

// wrongResults makes results wrong that were right for the tree.
var wrongResults = map[string]func(*backup.Stored){
	"returns no ID":              func(s *backup.Stored) { s.ID = "" },
	"returns an ID with a slash": func(s *backup.Stored) { s.ID = "../../etc" },
	"returns an ID like a flag":  func(s *backup.Stored) { s.ID = "--delete" },
	"returns another host's":     func(s *backup.Stored) { s.Host = "host-b" },
	"returns another set's":      func(s *backup.Stored) { s.Set = "other" },
	"returns another time's":     func(s *backup.Stored) { s.Time = s.Time.Add(time.Hour) },
	"returns fewer roots":        func(s *backup.Stored) { s.Roots = s.Roots[:1] },
	"hides that it is not all":   func(s *backup.Stored) { s.Incomplete = true },
	"returns a negative number":  func(s *backup.Stored) { s.Bytes = -1 },
	"sends a huge message":       func(s *backup.Stored) { s.Warnings = []string{strings.Repeat("x", maxMessage)} },
}

func (b fakeBackend) Store(
	ctx context.Context, c backup.Config, t backup.Tree, report backup.Report,
) (backup.Stored, error) {
	stored := storedFor(t)
	if spoil := wrongResults[string(b)]; spoil != nil {
		spoil(&stored)
		return stored, nil
	}
	switch b {
	case "crashes":
		os.Exit(3)
	case "exits well":
		syscall.Exit(0) // not os.Exit, which waits a second with the race detector
	case "panics":
		panic("at the disco")
	case "panics elsewhere":
		go func() { panic("at the disco") }()
		select {}
	case "is killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "stops":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // the signal may take a moment
	case "hangs":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "works slowly":
		for i := range 40 {
			time.Sleep(testStall / 10)
			report(backup.Progress{Done: int64(i)})
		}
	case "floods":
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			report(backup.Progress{Done: 1})
		}
		report(backup.Progress{Done: 2})
	case "prints":
		fmt.Println("on stdout")
		fmt.Fprintln(os.Stderr, "on stderr")
		_, _ = syscall.Write(1, []byte(strings.Repeat("past everything\n", 1000)))
	case "cleans up":
		return stored, cleanUpOnCancel(ctx, c.Scratch)
	case "is incomplete":
		stored.Incomplete = true
		return stored, fault.New(fault.SourceUnreadable, "one file").With("paths", []string{"/dat/shut"})
	case "echoes":
		return echoStore(c, t, report)
	}
	return stored, nil
}

// cleanUpOnCancel makes a file, and removes it 100 ms after ctx has ended.
func cleanUpOnCancel(ctx context.Context, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "begun"), nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	time.Sleep(100 * time.Millisecond)
	return errors.Join(ctx.Err(), os.Remove(filepath.Join(dir, "begun")))
}

// Describe of the role "has children" starts processes that ignore signals, and names their IDs as features.
func (b fakeBackend) Describe(_ context.Context, c backup.Config) (backup.Description, error) {
	switch b {
	case "has children":
		pids, err := startChildren()
		return backup.Description{Name: "children", Features: pids}, err
	case "hangs in all":
		select {}
	case "has no name":
		return backup.Description{}, nil
	case "names a relative path":
		return backup.Description{Name: "a", Local: []string{"repository"}}, nil
	case "echoes":
		return fullDescription(), compareArguments("Describe", c, fullConfig())
	}
	return backup.Description{Name: "actor"}, nil
}

// startChildren starts three programs and returns their process IDs: one in the process group of the backend, one in a
// group of its own as core/command does, and one whose parent has ended.
func startChildren() ([]string, error) {
	const stubborn = `trap "" TERM HUP INT; echo $$; while :; do sleep 1; done`
	var pids []string
	for _, start := range []struct {
		script string
		group  bool
	}{{stubborn, false}, {stubborn, true}, {"sh -c '" + stubborn + "' &", false}} {
		cmd := exec.Command("sh", "-c", start.script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: start.group}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		var pid int
		if _, err := fmt.Fscan(out, &pid); err != nil {
			return nil, err
		}
		pids = append(pids, strconv.Itoa(pid))
	}
	return pids, nil
}

func (b fakeBackend) List(_ context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	old, recent := storedFor(sampleTree()), storedFor(sampleTree())
	recent.Time = recent.Time.Add(time.Hour)
	switch b {
	case "lists the oldest first":
		return []backup.Stored{old, recent}, nil
	case "lists another host's":
		old.Host = "host-b"
	case "lists an ID with a slash":
		old.ID = "a/b"
	case "lists a thousand":
		return repeat(old, 1000), nil
	case "echoes":
		return fullList(), compareArguments("List", []any{c, host}, []any{fullConfig(), "host-a"})
	}
	return []backup.Stored{recent, old}, nil
}

func repeat(s backup.Stored, n int) []backup.Stored {
	all := make([]backup.Stored, n)
	for i := range all {
		all[i] = s
	}
	return all
}

func (b fakeBackend) Present(ctx context.Context, c backup.Config, id string, report backup.Report,
	use func(context.Context, backup.Presented) error) error {
	switch b {
	case "presents nothing":
		return use(ctx, backup.Presented{})
	case "presents a relative path":
		return use(ctx, backup.Presented{Roots: map[string]string{"/dat": "dat"}})
	case "presents a symbolic link":
		return use(ctx, backup.Presented{Roots: map[string]string{"/dat": "/proc/self/cwd"}})
	case "lists flags at no path":
		return use(ctx, backup.Presented{Roots: map[string]string{"/dat": c.Scratch}, Flags: "flags"})
	case "does not present":
		return nil
	case "crashes in use":
		time.AfterFunc(100*time.Millisecond, func() { os.Exit(3) })
	case "fails to clean up":
		_ = use(ctx, backup.Presented{Roots: map[string]string{"/dat": "/"}})
		return fault.New(fault.Busy, "it is still mounted")
	case "echoes":
		report(fullProgress())
		if err := compareArguments("Present", []any{c, id}, []any{fullConfig(), "an id"}); err != nil {
			return err
		}
		return use(ctx, fullPresented())
	}
	return use(ctx, backup.Presented{Roots: map[string]string{"/dat": c.Scratch}})
}

func (b fakeBackend) Check(_ context.Context, c backup.Config) ([]string, error) {
	if b == "echoes" {
		return []string{"it holds no ACLs"}, compareArguments("Check", c, fullConfig())
	}
	return nil, nil
}

func (b fakeBackend) Forget(_ context.Context, c backup.Config, id string) error {
	if b == "echoes" {
		return compareArguments("Forget", []any{c, id}, []any{fullConfig(), "an id"})
	}
	return nil
}

func (b fakeBackend) Settle(_ context.Context, c backup.Config) error {
	if b == "echoes" {
		return compareArguments("Settle", c, fullConfig())
	}
	return nil
}
