package backup

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// lockedFor returns a function that fails with repository_locked so often, then with err, and the number of its calls.
func lockedFor(times int, err error) (func() error, *int) {
	calls := 0
	return func() error {
		if calls++; calls <= times {
			return fault.New(fault.RepositoryLocked, "another run stores").WithHint("wait for it")
		}
		return err
	}, &calls
}

func TestWaitEndsWithTheLock(t *testing.T) {
	other := errors.New("other")
	for _, want := range []error{nil, other} {
		var labels []string
		try, calls := lockedFor(3, want)
		err := WaitWhileLocked(t.Context(), time.Hour, time.Millisecond,
			func(p Progress) { labels = append(labels, p.Label) }, try)
		if err != want || *calls != 4 {
			t.Errorf("%v after %d calls, want %v after 4", err, *calls, want)
		}
		if len(labels) == 0 || labels[0] != "waiting: another run stores" {
			t.Errorf("reported %q", labels)
		}
	}
	try, _ := lockedFor(0, nil)
	report := func(p Progress) { t.Errorf("reports %+v, and waits for nothing", p) }
	if err := WaitWhileLocked(t.Context(), time.Hour, time.Hour, report, try); err != nil {
		t.Error(err)
	}
}

func TestWaitEndsWithItsLimitAndItsContext(t *testing.T) {
	ignore := func(Progress) {}
	try, _ := lockedFor(1<<30, nil)
	f := fault.Of(WaitWhileLocked(t.Context(), 20*time.Millisecond, time.Millisecond, ignore, try))
	if f == nil || f.Code != fault.RepositoryLocked || f.Hint != "wait for it" ||
		!strings.Contains(f.Msg, "another run stores") || !strings.Contains(f.Msg, "20ms") {
		t.Errorf("got %v", f)
	}
	try, calls := lockedFor(1<<30, nil)
	if err := WaitWhileLocked(t.Context(), 0, time.Hour, ignore, try); !errors.Is(err, fault.RepositoryLocked) ||
		*calls != 1 || strings.Contains(err.Error(), "waited") {
		t.Errorf("without a wait: %v, %d calls", err, *calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WaitWhileLocked(ctx, time.Hour, time.Hour, ignore, try); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
