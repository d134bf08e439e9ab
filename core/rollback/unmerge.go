package rollback

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// keepMetadata keeps what unmerge needs. A rollback goes on without.
func (w *walk) keepMetadata(ctx context.Context) {
	if err := w.lvm.KeepMetadata(ctx, w.kept, w.state.groups()...); err != nil {
		w.warnings = append(w.warnings, "should a volume be opened just when LVM begins to merge it, there is no way back: "+
			err.Error())
	}
}

// dropMetadata removes it.
func (w *walk) dropMetadata() {
	for _, group := range w.state.groups() {
		_ = os.Remove(filepath.Join(w.kept, group))
	}
	_ = os.Remove(w.kept) // another rollback may have its own in it
}

// unmerge has LVM forget the merges that it put off because their volumes were open. If it succeeds, nothing is rolled
// back; it fails once a member is. LVM took the devices of thin snapshots away, which come back.
func (w *walk) unmerge(ctx context.Context, states map[*Member]string) error {
	late := pick(states, w.state.Members, deferred)
	if len(late)+len(pick(states, w.state.Members, waiting)) < len(w.state.Members) {
		return fault.New(fault.MergeFailed, "other volumes of the set are rolled back already")
	}
	var thin []string
	merges := map[string][]lvm.Waiting{}
	for _, m := range late {
		merges[m.VG] = append(merges[m.VG], lvm.Waiting{Origin: m.LV, Snapshot: m.Snapshot})
		if m.Thin {
			thin = append(thin, m.snapshot())
		}
	}
	for group, waiting := range merges {
		if err := w.lvm.Unmerge(ctx, w.kept, group, waiting...); err != nil {
			return err
		}
	}
	if err := w.lvm.Activate(ctx, thin...); err != nil {
		w.warnings = append(w.warnings, "the snapshots are there, and have no device: "+err.Error())
	}
	return nil
}

// heldOpen ends a rollback whose members something opened when LVM was about to merge them: back if that can be. The
// error says so, or why it cannot.
func (w *walk) heldOpen(ctx context.Context, late []*Member, waited time.Duration) (back bool, err error) {
	states, err := w.states(ctx)
	if err == nil {
		err = w.unmerge(ctx, states)
	}
	if err != nil {
		return false, w.stillBusy(ctx, fault.New(fault.Busy, "%w; there is no way back: %w",
			opened(late, waited, "the services stay down"), err).
			WithHint("end what holds it, and run the same task again: it goes on from here"))
	}
	return true, w.stillBusy(ctx, opened(late, waited, "LVM was told to forget the merge, and nothing was rolled back").
		WithHint("end what holds it, and run the same task again"))
}

// opened says that something opened members between the last look, which found them closed, and LVM's own.
func opened(members []*Member, waited time.Duration, so string) *fault.Error {
	return fault.New(fault.Busy, "%s was opened just when its merge was to begin, and was not closed for %s; %s",
		strings.Join(origins(members), ", "), waited, so)
}
