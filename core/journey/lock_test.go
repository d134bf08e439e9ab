package journey

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// lockPoll is longer than a lock that is free takes to be noticed.
const lockPoll = 100 * time.Millisecond

// locksIn returns a function that makes the locks of one more run, all in one new directory.
func locksIn(t *testing.T, wait time.Duration) func() *locks {
	dir := t.TempDir()
	return func() *locks {
		l := newLocks(dir)
		l.wait = wait
		t.Cleanup(l.unlock)
		return l
	}
}

func TestLockWaitsForTheOtherRun(t *testing.T) {
	newRun := locksIn(t, time.Minute)
	first, second := newRun(), newRun()
	begun := time.Now()
	if changed, err := first.lock(t.Context(), []string{"vg00"}, "lvm_merge snap", begun); changed || err != nil {
		t.Fatal(changed, err)
	}
	got := make(chan error, 1)
	var changed bool
	waitsFor := make(chan string, 1)
	second.onWait = func(what string) { waitsFor <- what }
	go func() {
		var err error
		changed, err = second.lock(context.Background(), []string{"vg00"}, "lvm_snapshot present snap", begun)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(3 * lockPoll):
	}
	if what := <-waitsFor; what != "waiting for lvm_merge snap" {
		t.Errorf("the progress is %q", what)
	}
	first.unlock()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if !changed {
		t.Error("it does not notice that another run held the lock")
	}
}

func TestLockThatIsNotWaitedForAnyLongerIsNoLimit(t *testing.T) {
	newRun := locksIn(t, time.Minute)
	first, second := newRun(), newRun()
	if _, err := first.lock(t.Context(), []string{"vg00"}, "lvm_merge snap", time.Now()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	second.onWait = func(string) { cancel() }
	_, err := second.lock(ctx, []string{"vg00"}, "lvm_snapshot present snap", time.Now())
	const want = "lvm_merge snap, which uses volume group vg00"
	if !errors.Is(err, fault.Interrupted) || !strings.Contains(err.Error(), want) {
		t.Errorf("a wait that was ended by a signal: %v", err)
	}
}

func TestLockedFaultNamesTheOwner(t *testing.T) {
	newRun := locksIn(t, 2*lockPoll)
	first, second, third := newRun(), newRun(), newRun()
	if _, err := first.lock(t.Context(), []string{"vg01", "vg00"}, "lvm_merge snap", time.Now()); err != nil {
		t.Fatal(err)
	}
	_, err := second.lock(t.Context(), []string{"vg02", "vg01"}, "x", time.Now())
	want := "volume group vg01 is in use by lvm_merge snap (pid "
	if !errors.Is(err, fault.Locked) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
	if o, ok := fault.Of(err).Facts["lock"].(owner); !ok || o.PID != os.Getpid() {
		t.Errorf("%+v", fault.Of(err).Facts)
	}
	if _, err := third.lock(t.Context(), []string{"vg03"}, "x", time.Now()); err != nil {
		t.Errorf("another group: %v", err)
	}
}

// Runs on the same groups, named in any order, never wait for each other.
func TestLockOrderPreventsDeadlock(t *testing.T) {
	newRun := locksIn(t, time.Minute)
	done := make(chan error)
	for _, groups := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "c", "b"}} {
		l := newRun()
		go func() {
			for range 3 {
				if _, err := l.lock(context.Background(), groups, "x", time.Now()); err != nil {
					done <- err
					return
				}
				l.unlock()
			}
			done <- nil
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestLockSkipsLocksItHolds(t *testing.T) {
	l := locksIn(t, time.Millisecond)()
	for range 2 {
		if _, err := l.lock(t.Context(), []string{"a"}, "x", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

// Another run may be waiting with the file open. If the file were deleted, two runs could hold the same lock.
func TestUnlockKeepsLockFiles(t *testing.T) {
	l := locksIn(t, time.Millisecond)()
	if _, err := l.lock(t.Context(), []string{"a"}, "x", time.Now()); err != nil {
		t.Fatal(err)
	}
	l.unlock()
	if _, err := os.Stat(filepath.Join(l.dir, "a")); err != nil {
		t.Error(err)
	}
}
