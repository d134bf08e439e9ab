package snapset

import (
	"context"
	"errors"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// undoLimit bounds the undoing of an operation that failed.
const undoLimit = 5 * time.Minute

// errLeftover says that an operation failed and could not be undone either.
var errLeftover = errors.New("what is left is undone when this run has ended, or by the next run")

// mayHoldVolume says that after this error a volume may still be suspended, or a file system frozen, or that a command
// of LVM is still running, which may suspend a volume and make what an undo would not have found.
func mayHoldVolume(err error) bool {
	return errors.Is(err, filesystem.ErrFreezing) || errors.Is(err, lvm.ErrSuspending) ||
		errors.Is(err, lvm.ErrUnfinished)
}

// undoAfterFailure is Undo for an operation that failed. It works within undoLimit, even if ctx has ended. Its error is
// errLeftover.
func undoAfterFailure(ctx context.Context, l *lvm.LVM, p *Plan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if err := Undo(ctx, l, p); err != nil {
		return fault.New(fault.Of(err).Code, "%w (%w)", err, errLeftover)
	}
	return nil
}

// closeFailed closes the journal entry of an operation that failed, if nothing is left of the operation. Otherwise the
// entry stays open: it is settled when this process has ended, and before any other run changes these volume groups.
func closeFailed(run *journey.Run, err error) error {
	if errors.Is(err, errLeftover) || mayHoldVolume(err) {
		return err
	}
	return fault.All(err, run.Finish("undone", journal.Undone, nil))
}
