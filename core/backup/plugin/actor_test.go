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

// actor is a backend that plays a role.
type actor string

// aTree is what actors are asked to store.
func aTree() backup.Tree {
	return backup.Tree{Host: "host-a", Set: "snap", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Roots: []string{"/dat", "/app"}}
}

func storedAs(t backup.Tree) backup.Stored {
	return backup.Stored{ID: "20260102T030405Z", Host: t.Host, Set: t.Set, Time: t.Time, Roots: t.Roots}
}

// lies are results that are not those of the tree.
var lies = map[string]func(*backup.Stored){
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

func (a actor) Store(ctx context.Context, c backup.Config, t backup.Tree, report backup.Report) (backup.Stored, error) {
	stored := storedAs(t)
	if lie := lies[string(a)]; lie != nil {
		lie(&stored)
		return stored, nil
	}
	switch a {
	case "crashes":
		os.Exit(3)
	case "exits well":
		syscall.Exit(0) // at once: the race detector makes os.Exit(0) wait a second
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
		for until := time.Now().Add(time.Second); time.Now().Before(until); {
			report(backup.Progress{Done: 1})
		}
		report(backup.Progress{Done: 2})
	case "prints":
		fmt.Println("on stdout")
		fmt.Fprintln(os.Stderr, "on stderr")
		_, _ = syscall.Write(1, []byte(strings.Repeat("past everything\n", 1000)))
	case "puts away":
		return stored, putAway(ctx, c.Scratch)
	case "is incomplete":
		stored.Incomplete = true
		return stored, fault.New(fault.SourceUnreadable, "one file").With("paths", []string{"/dat/shut"})
	case "echoes":
		return echoStore(c, t, report)
	}
	return stored, nil
}

// putAway begins something, and puts it away when it is cancelled, which takes a moment.
func putAway(ctx context.Context, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "begun"), nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	time.Sleep(100 * time.Millisecond)
	return errors.Join(ctx.Err(), os.Remove(filepath.Join(dir, "begun")))
}

// Describe of one with children starts some that do not want to end, each in its own way, and names them.
func (a actor) Describe(_ context.Context, c backup.Config) (backup.Description, error) {
	switch a {
	case "has children":
		pids, err := children()
		return backup.Description{Name: "children", Features: pids}, err
	case "hangs in all":
		select {}
	case "has no name":
		return backup.Description{}, nil
	case "names a relative path":
		return backup.Description{Name: "a", Local: []string{"repository"}}, nil
	case "echoes":
		return fullDescription(), wrong("Describe", c, fullConfig())
	}
	return backup.Description{Name: "actor"}, nil
}

// children starts a program in our process group, one in a group of its own as core/command does, and one that has lost
// its parent.
func children() ([]string, error) {
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

func (a actor) List(_ context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	old, recent := storedAs(aTree()), storedAs(aTree())
	recent.Time = recent.Time.Add(time.Hour)
	switch a {
	case "lists the oldest first":
		return []backup.Stored{old, recent}, nil
	case "lists another host's":
		old.Host = "host-b"
	case "lists an ID with a slash":
		old.ID = "a/b"
	case "lists a thousand":
		return slicesRepeat(old, 1000), nil
	case "echoes":
		return fullList(), wrong("List", []any{c, host}, []any{fullConfig(), "host-a"})
	}
	return []backup.Stored{recent, old}, nil
}

func slicesRepeat(s backup.Stored, n int) []backup.Stored {
	all := make([]backup.Stored, n)
	for i := range all {
		all[i] = s
	}
	return all
}

func (a actor) Present(ctx context.Context, c backup.Config, id string, report backup.Report,
	use func(context.Context, backup.Presented) error) error {
	switch a {
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
	case "fails to put away":
		_ = use(ctx, backup.Presented{Roots: map[string]string{"/dat": "/"}})
		return fault.New(fault.Busy, "it is still mounted")
	case "echoes":
		report(fullProgress())
		if err := wrong("Present", []any{c, id}, []any{fullConfig(), "an id"}); err != nil {
			return err
		}
		return use(ctx, fullPresented())
	}
	return use(ctx, backup.Presented{Roots: map[string]string{"/dat": c.Scratch}})
}

func (a actor) Check(_ context.Context, c backup.Config) ([]string, error) {
	if a == "echoes" {
		return []string{"it holds no ACLs"}, wrong("Check", c, fullConfig())
	}
	return nil, nil
}

func (a actor) Forget(_ context.Context, c backup.Config, id string) error {
	if a == "echoes" {
		return wrong("Forget", []any{c, id}, []any{fullConfig(), "an id"})
	}
	return nil
}

func (a actor) Settle(_ context.Context, c backup.Config) error {
	if a == "echoes" {
		return wrong("Settle", c, fullConfig())
	}
	return nil
}
