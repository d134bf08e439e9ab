package restic

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
)

// resticWithLocks plays a restic whose repository has locks, and notes whether it is told to remove the stale ones.
type resticWithLocks struct {
	locks    []repositoryLock
	unlocked bool
}

func (r *resticWithLocks) Stream(_ context.Context, c command.Cmd, _ func(string)) (command.Output, error) {
	r.unlocked = slices.Contains(c.Argv, "unlock")
	return command.Output{}, nil
}

func (r *resticWithLocks) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	if slices.Contains(c.Argv, "list") {
		var ids string
		for i := range r.locks {
			ids += strconv.Itoa(i) + "\n"
		}
		return command.Output{Stdout: ids}, nil
	}
	i, err := strconv.Atoi(c.Argv[len(c.Argv)-1]) // restic cat lock ID
	if err != nil {
		return command.Output{}, err
	}
	text, err := json.Marshal(r.locks[i])
	return command.Output{Stdout: string(text)}, err
}

// SetClockSynchronized says for the test whether this host's clock is known to be right.
func SetClockSynchronized(t *testing.T, synchronized bool) {
	before := isClockSynchronized
	t.Cleanup(func() { isClockSynchronized = before })
	isClockSynchronized = func() bool { return synchronized }
}

// `restic unlock` removes every lock that is older than half an hour by this host's clock. If the clock ran ahead, that
// would be the locks of hosts that are at work.
func TestClockThatMayBeWrongRemovesNoLockOfAnother(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const noProcess = 1 << 30
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	ownDead := repositoryLock{Time: ago(time.Minute), Hostname: host, PID: noProcess}
	ownAlive := repositoryLock{Time: ago(time.Hour), Hostname: host, PID: os.Getpid()}
	otherFresh := repositoryLock{Time: ago(time.Minute), Hostname: "another-host", PID: noProcess}
	otherOld := repositoryLock{Time: ago(time.Hour), Hostname: "another-host", PID: noProcess}
	for name, c := range map[string]struct {
		locks        []repositoryLock
		synchronized bool
		want         bool
	}{
		"no lock":                              {nil, false, false},
		"one of an ended program of this host": {[]repositoryLock{ownDead}, false, true},
		"a fresh one of another host too":      {[]repositoryLock{ownDead, otherFresh}, false, true},
		"an old one of another host":           {[]repositoryLock{ownDead, otherOld}, false, false},
		"an old one of a program at work here": {[]repositoryLock{ownDead, ownAlive}, false, false},
		"the clock is known to be right":       {[]repositoryLock{otherOld}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			SetClockSynchronized(t, c.synchronized)
			r := &resticWithLocks{locks: c.locks}
			if err := (&tool{Streamer: r}).settleLocks(t.Context()); err != nil || r.unlocked != c.want {
				t.Errorf("unlocked: %v, want %v; %v", r.unlocked, c.want, err)
			}
		})
	}
}
