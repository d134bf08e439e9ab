package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// waitUntil waits for a condition.
func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", timeout, what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// A backend that reports progress is not taken for one that hangs, however long it works.
func TestProgressKeepsACallAlive(t *testing.T) {
	t.Parallel()
	c := start(t, "works slowly")
	c.stall = 3 * testStall // on a machine under load a report may take longer than testStall
	begun := time.Now()
	if _, err := c.Store(t.Context(), backup.Config{}, sampleTree(), nil); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took <= c.stall {
		t.Errorf("it took %v, which proves nothing", took)
	}
}

// However often a backend reports, the caller gets one report per second at most, and always gets the last one.
func TestProgressIsThrottled(t *testing.T) {
	t.Parallel()
	c := start(t, "floods")
	begun, count, last := time.Now(), 0, backup.Progress{}
	_, err := c.Store(t.Context(), backup.Config{}, sampleTree(), func(p backup.Progress) { count, last = count+1, p })
	if err != nil {
		t.Fatal(err)
	}
	if most := int(time.Since(begun)/reportInterval) + 2; count > most || count < 2 {
		t.Errorf("%d reports, want at most %d", count, most)
	}
	if last.Done != 2 {
		t.Errorf("the last report is %+v", last)
	}
}

// The caller can end a call whose backend sends progress without end, even if the backend ignores the cancel.
func TestCancelDuringEndlessProgress(t *testing.T) {
	t.Parallel()
	c := start(t, "floods for ever")
	c.stall = testStall
	ctx, cancel := context.WithTimeout(t.Context(), testStall/4) // shorter than the stall limit
	defer cancel()
	begun, count := time.Now(), 0
	_, err := c.Store(ctx, backup.Config{}, sampleTree(), func(backup.Progress) { count++ })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context as the cause", err)
	}
	wantFailure(t, err, begun, "it did not end Store within 1s of being asked to")
	if most := int(time.Since(begun)/reportInterval) + 2; count > most {
		t.Errorf("%d reports, want at most %d", count, most)
	}
}

// What a backend prints after the handshake goes to the log and does no harm.
func TestPrintedLinesGoToLog(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var log strings.Builder
	h := Host{SocketDir: socketDir(t), Log: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(&log, line)
	}}
	c, err := h.Start(t.Context(), program("prints"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Store(t.Context(), backup.Config{}, sampleTree(), nil); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, line := range []string{startupLine, "on stdout", "on stderr"} {
		if !strings.Contains(log.String(), line+"\n") {
			t.Errorf("the log is %q, without %q", log.String(), line)
		}
	}
}

// A cancelled call returns only after the backend has cleaned up what it had begun.
func TestCancelledCallWaitsForCleanup(t *testing.T) {
	t.Parallel()
	c, dir := start(t, "cleans up"), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := c.Store(ctx, backup.Config{Scratch: dir}, sampleTree(), nil)
		ended <- err
	}()
	waitUntil(t, "Store has begun", func() bool { return exists(filepath.Join(dir, "begun")) })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || fault.Of(err).Code != fault.Interrupted {
		t.Errorf("got %v (%v), want that it was cancelled", err, fault.Of(err).Code)
	}
	if exists(filepath.Join(dir, "begun")) {
		t.Error("Store returned before the backend had cleaned up what it had begun")
	}
	if _, err := c.Check(t.Context(), backup.Config{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// Close gives a call that is under way the time to clean up what it had begun.
func TestCloseDuringCallWaitsForCleanup(t *testing.T) {
	t.Parallel()
	c, dir := start(t, "cleans up"), t.TempDir()
	ended := make(chan error, 1)
	begun := time.Now()
	go func() {
		_, err := c.Store(t.Context(), backup.Config{Scratch: dir}, sampleTree(), nil)
		ended <- err
	}()
	waitUntil(t, "Store has begun", func() bool { return exists(filepath.Join(dir, "begun")) })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantFailure(t, <-ended, begun, "it ended in the middle of Store: exit status 0")
	if exists(filepath.Join(dir, "begun")) {
		t.Error("the backend had no time to clean up what it had begun")
	}
	_, err := c.Check(t.Context(), backup.Config{})
	wantFailure(t, err, time.Now(), "Check")
	if err := c.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

// A backend whose host is killed cleans up what it had begun, and ends by itself.
func TestBackendEndsWhenHostIsKilled(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "killed")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p := program("is a host")
	host := exec.Command(p.Argv[0], p.Argv[1:]...)
	host.Env = []string{"TMPDIR=" + dir}
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Errorf("the host names no backend: %v", err)
	}
	waitUntil(t, "Store has begun", func() bool { return exists(filepath.Join(dir, "begun")) })
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait() // killed
	waitUntil(t, "the backend has ended", func() bool { return len(sessionProcesses(pid)) == 0 })
	if exists(filepath.Join(dir, "begun")) {
		t.Error("the backend did not clean up what it had begun")
	}
}

// The end of a backend ends all processes that it has started: those in its process group, those in another group, and
// those whose parent has ended.
func TestNoChildProcessIsLeft(t *testing.T) {
	for name, end := range map[string]func(*Client) error{
		"closed": func(c *Client) error { return c.Close() },
		"killed": func(c *Client) error {
			if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
				return err
			}
			return c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, "has children")
			d, err := c.Describe(t.Context(), backup.Config{})
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Features) != 3 {
				t.Fatalf("children: %v", d.Features)
			}
			for _, pid := range d.Features {
				if !exists("/proc/" + pid) {
					t.Errorf("child %s does not live, which proves nothing", pid)
				}
			}
			if err := end(c); err != nil {
				t.Error(err)
			}
			for _, text := range d.Features {
				pid, err := strconv.Atoi(text)
				if err != nil {
					t.Fatal(err)
				}
				if isAlive(pid, c.PID()) {
					t.Errorf("child %d lives", pid)
				}
			}
		})
	}
}

// Store returns an incomplete backup together with the fault that says why it is incomplete.
func TestIncompleteBackupComesWithFault(t *testing.T) {
	t.Parallel()
	c := start(t, "is incomplete")
	stored, err := c.Store(t.Context(), backup.Config{}, sampleTree(), nil)
	if !errors.Is(err, fault.SourceUnreadable) || !stored.Incomplete || stored.ID == "" {
		t.Errorf("got %+v, %v", stored, err)
	}
}

// If use returns an error, Present returns that error; otherwise it returns the error of the backend's cleanup.
func TestPresentReturnsCleanupOrUseError(t *testing.T) {
	t.Parallel()
	c, useErr := start(t, "fails to clean up"), errors.New("error of use")
	for returned, want := range map[error]error{nil: fault.Busy, useErr: useErr} {
		err := c.Present(t.Context(), backup.Config{}, "id", nil,
			func(context.Context, backup.Presented) error { return returned })
		if !errors.Is(err, want) {
			t.Errorf("use returned %v, and Present %v, want %v", returned, err, want)
		}
	}
}

// use must run on the goroutine that calls Present, because the thread of that goroutine may have a mount namespace of
// its own.
func TestUseRunsOnTheCallersGoroutine(t *testing.T) {
	t.Parallel()
	c := start(t, "well")
	defer func() {
		if p := recover(); p != "in use" {
			t.Errorf("recovered %v", p)
		}
	}()
	_ = c.Present(t.Context(), backup.Config{Scratch: "/"}, "id", nil,
		func(context.Context, backup.Presented) error { panic("in use") })
}

func TestListOfThousandBackups(t *testing.T) {
	t.Parallel()
	c := start(t, "lists a thousand")
	all, err := c.List(t.Context(), backup.Config{}, "host-a")
	if err != nil || len(all) != 1000 {
		t.Errorf("%d backups, %v", len(all), err)
	}
}

// A backend reads files of the FUSE mount that it presents, and a preemption signal of Go's scheduler would interrupt
// that. So its environment must turn these signals off.
func TestBackendRunsWithoutPreemptionSignals(t *testing.T) {
	p := newProcess(t.Context(), Program{Argv: []string{"/bin/true"}}, t.TempDir(), nil)
	if !slices.Contains(p.cmd.Env, command.Unsignalled) {
		t.Errorf("%q", p.cmd.Env)
	}
}
