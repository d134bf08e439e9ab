package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/core/tree"
)

// undoLimit bounds the removal of a set that was not filled.
const undoLimit = 5 * time.Minute

// nothingWritten says that no target was changed. It is right only after a success: a failed restore may have written a
// part of a file that is counted nowhere. After a failure, maybeWritten tells.
func (r *restoreRun) nothingWritten() bool {
	return !slices.ContainsFunc(r.synced, func(d tree.Done) bool { return !d.Same() })
}

// withHint adds to an error what becomes of the set, and "run the same again" if it has no hint. Before there is a set,
// a hint stands as it is, except that of the backend.
func (r *restoreRun) withHint(err error) error {
	f := *fault.Of(err)
	if f.Hint != "" && r.ownSet == nil && f.Code != fault.BackendFailed {
		return &f
	}
	state := "nothing was changed"
	switch {
	case r.ownSet == nil:
	case r.planned.Existing && !r.maybeWritten:
		state = "set " + r.Set + " is as it was, and the volumes are untouched"
	default:
		state = "set " + r.Set + " is removed again, and the volumes are untouched"
	}
	f.Hint = state + "; " + cmp.Or(f.Hint, "run the same again")
	return &f
}

// undo removes the set if this run took it or may have written into it. A set that existed before and is unchanged is
// kept.
func (r *restoreRun) undo() error {
	if r.ownSet == nil {
		return nil
	}
	if r.planned.Existing && !r.maybeWritten {
		return r.ownSet.Keep(StepFilled)
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	return r.ownSet.Remove(ctx, journal.Undone)
}

// finishUnchanged returns the result if the backup and the volumes do not differ. A set that this run took is of no use
// then and is removed; one that existed before is kept.
func (r *restoreRun) finishUnchanged(ctx context.Context) (ansible.Result, error) {
	if r.planned.Existing {
		err := r.keep(ctx)
		result := answers{r}.result() // after keep, whose warnings it has
		result.Changed = false
		result.Msg = fmt.Sprintf("set %s holds backup %s already", r.Set, r.backup.ID)
		return result, err
	}
	result := answers{r}.result()
	result.Changed = false
	result.Msg = fmt.Sprintf("%s hold what backup %s of %s holds; nothing to do",
		strings.Join(targetNames(r.planned.Targets), ", "), r.backup.ID, r.backup.Time.Format(time.RFC3339))
	delete(result.Data, "discarded_since")
	return result, r.undo()
}

// keep makes the set an ordinary one that this run does not remove, with a tag that names the backup it holds.
func (r *restoreRun) keep(ctx context.Context) error {
	err := r.ownSet.TagBackup(ctx, snapset.Restored{ID: r.backup.ID, Time: r.backup.Time})
	if errors.Is(err, fault.SnapshotInvalid) {
		return err
	}
	if err != nil {
		r.warnings = append(r.warnings, fmt.Sprintf("set %s could not be tagged with the ID of its backup: %v", r.Set, err))
	}
	return r.ownSet.Keep(StepFilled)
}

func targetNames(targets []snapset.Target) []string {
	var out []string
	for _, t := range targets {
		out = append(out, t.Name)
	}
	return out
}
