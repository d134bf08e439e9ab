package run

import (
	"encoding/hex"
	"errors"
	"hash/fnv"
	"path/filepath"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lock"
)

// placeLocks is the directory of the locks of the places that this server backs up to. Tests have one of their own.
var placeLocks = journey.RuntimeDir

// lockPlace keeps other backups of this server out of the place until unlockPlace. The backend's own lock lasts for one
// of its calls. What follows the storing, the removal of a backup that must not be used and of old ones, would meet the
// lock of the next backup, which may last for hours. Faults: repository_locked, internal.
func (op *operation) lockPlace() error {
	if op.placeHeld != nil {
		return nil
	}
	l, err := lock.File(op.placeLock())
	switch {
	case errors.Is(err, lock.ErrHeld):
		return fault.New(fault.RepositoryLocked, "another run of this server backs up to %s", op.place()).
			WithHint("lvm_snapshot_info shows what is under way: wait for it, or give the schedules different times")
	case err != nil:
		return fault.New(fault.Internal, "lock the place of the backup: %w", err)
	}
	op.placeHeld = l
	return nil
}

// placeLock returns the path of the lock of the place: one for each backend, host and place.
func (op *operation) placeLock() string {
	job := op.job()
	hash := fnv.New64a()
	hash.Write([]byte(job.Backend + "\x00" + job.Host + "\x00" + job.Place))
	return filepath.Join(placeLocks, "place-"+hex.EncodeToString(hash.Sum(nil))+".lock")
}

func (op *operation) unlockPlace() {
	if op.placeHeld != nil {
		op.placeHeld.Release()
		op.placeHeld = nil
	}
}
