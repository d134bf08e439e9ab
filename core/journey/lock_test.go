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

func lockDir(t *testing.T, wait time.Duration) func() *locks {
	dir := t.TempDir()
	return func() *locks {
		l := newLocks(dir)
		l.wait = wait
		t.Cleanup(l.release)
		return l
	}
}

func TestTheSecondWaitsForTheFirst(t *testing.T) {
	another := lockDir(t, time.Minute)
	first, second := another(), another()
	begun := time.Now()
	if changed, err := first.take(t.Context(), []string{"vg00"}, "lvm_merge snap", begun); changed || err != nil {
		t.Fatal(changed, err)
	}
	got := make(chan error, 1)
	var changed bool
	told := make(chan string, 1)
	second.tell = func(what string) { told <- what }
	go func() {
		var err error
		changed, err = second.take(context.Background(), []string{"vg00"}, "lvm_snapshot present snap", begun)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(3 * lockPoll):
	}
	if what := <-told; what != "waiting for lvm_merge snap" {
		t.Errorf("it says %q", what)
	}
	first.release()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if !changed {
		t.Error("it takes what it saw before for still true")
	}
}

func TestTheSecondNamesTheFirst(t *testing.T) {
	another := lockDir(t, 2*lockPoll)
	first, second, third := another(), another(), another()
	if _, err := first.take(t.Context(), []string{"vg01", "vg00"}, "lvm_merge snap", time.Now()); err != nil {
		t.Fatal(err)
	}
	_, err := second.take(t.Context(), []string{"vg02", "vg01"}, "x", time.Now())
	if !errors.Is(err, fault.Locked) || !strings.Contains(err.Error(), "volume group vg01 is in use by lvm_merge snap (pid ") {
		t.Errorf("%v", err)
	}
	if o, ok := fault.Of(err).Facts["lock"].(owner); !ok || o.PID != os.Getpid() {
		t.Errorf("%+v", fault.Of(err).Facts)
	}
	if _, err := third.take(t.Context(), []string{"vg03"}, "x", time.Now()); err != nil {
		t.Errorf("another group: %v", err)
	}
}

// Two journeys over the same groups, named in any order, never wait for each other.
func TestNoDeadlock(t *testing.T) {
	another := lockDir(t, time.Minute)
	done := make(chan error)
	for _, groups := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "c", "b"}} {
		l := another()
		go func() {
			for range 3 {
				if _, err := l.take(context.Background(), groups, "x", time.Now()); err != nil {
					done <- err
					return
				}
				l.release()
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

func TestALockThatIsHeldIsNotTakenAgain(t *testing.T) {
	l := lockDir(t, time.Millisecond)()
	for range 2 {
		if _, err := l.take(t.Context(), []string{"a"}, "x", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

// A waiter may have the file open: were it deleted, two would hold the same lock.
func TestLockFilesStay(t *testing.T) {
	l := lockDir(t, time.Millisecond)()
	if _, err := l.take(t.Context(), []string{"a"}, "x", time.Now()); err != nil {
		t.Fatal(err)
	}
	l.release()
	if _, err := os.Stat(filepath.Join(l.dir, "a")); err != nil {
		t.Error(err)
	}
}
