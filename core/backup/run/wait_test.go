package run

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// busyBackend is a backend whose repository is locked the first few times that it is asked.
type busyBackend struct {
	backup.Backend
	locked, settled int
}

func (b *busyBackend) Check(context.Context, backup.Config) ([]string, error) {
	if b.locked--; b.locked >= 0 {
		return nil, fault.New(fault.RepositoryLocked, "another run stores backups of db1")
	}
	return []string{"no ACLs"}, nil
}

func (b *busyBackend) Settle(context.Context, backup.Config) error { b.settled++; return nil }

// A backup waits for another one in the same place, and what it has waited is taken off its wait for volume groups.
func TestBackupWaitsForLockedRepository(t *testing.T) {
	defer func(d time.Duration) { repositoryPause = d }(repositoryPause)
	repositoryPause = time.Millisecond
	said := ""
	report := func(p backup.Progress) { said = p.Label }
	b := &busyBackend{locked: 7}
	op := &operation{Request: nightly}
	op.LockTimeout = time.Hour
	warnings, err := op.waitForRepository(t.Context(), b, backup.Config{}, report)
	if err != nil || len(warnings) != 1 || b.settled == 0 {
		t.Errorf("%q, %v, settled %d times", warnings, err, b.settled)
	}
	if said != "waiting: another run stores backups of db1" {
		t.Errorf("it says %q", said)
	}
	if op.waited < time.Millisecond || op.waited > time.Minute {
		t.Errorf("it waited for %v", op.waited)
	}
	op.LockTimeout = 10 * time.Millisecond
	_, err = op.waitForRepository(t.Context(), &busyBackend{locked: 1 << 30}, backup.Config{}, report)
	if !errors.Is(err, fault.RepositoryLocked) || !strings.Contains(err.Error(), "another run stores backups of db1") {
		t.Errorf("got %v", err)
	}
}
