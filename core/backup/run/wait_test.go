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
	defer func(d string) { placeLocks = d }(placeLocks)
	placeLocks = t.TempDir()
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
	op.unlockPlace()
	op.LockTimeout = 10 * time.Millisecond
	defer op.unlockPlace()
	_, err = op.waitForRepository(t.Context(), &busyBackend{locked: 1 << 30}, backup.Config{}, report)
	if !errors.Is(err, fault.RepositoryLocked) || !strings.Contains(err.Error(), "another run stores backups of db1") {
		t.Errorf("got %v", err)
	}
}

// While a backup is at work, also after the storing, another of this server to the same place waits, whatever its
// volumes are.
func TestBackupsToOnePlaceFollowEachOther(t *testing.T) {
	defer func(d string) { placeLocks = d }(placeLocks)
	placeLocks = t.TempDir()
	b := &busyBackend{}
	newOperation := func(change func(r *Request)) *operation {
		op := &operation{Request: nightly}
		op.LockTimeout = 0
		change(&op.Request)
		t.Cleanup(op.unlockPlace)
		return op
	}
	ask := func(op *operation) error {
		_, err := op.waitForRepository(t.Context(), b, backup.Config{}, func(backup.Progress) {})
		return err
	}
	first := newOperation(func(*Request) {})
	if err := ask(first); err != nil {
		t.Fatal(err)
	}
	second := newOperation(func(r *Request) { r.Set, r.Volumes = "hourly", r.Volumes[:1] })
	if err := ask(second); !errors.Is(err, fault.RepositoryLocked) || fault.Of(err).Hint == "" {
		t.Errorf("while another runs: %v", err)
	}
	for name, change := range map[string]func(r *Request){
		"another host":    func(r *Request) { r.Use.Host = "db2" },
		"another place":   func(r *Request) { r.Use.Options = map[string]any{"path": "/elsewhere"} },
		"another backend": func(r *Request) { r.Use.Backend = "rsync" },
	} {
		if err := ask(newOperation(change)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	first.unlockPlace()
	if err := ask(second); err != nil {
		t.Errorf("after the first: %v", err)
	}
}
