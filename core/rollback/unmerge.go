package rollback

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
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
	names := map[string][]string{}
	for _, m := range late {
		names[m.VG] = append(names[m.VG], m.LV, m.Snapshot)
		if m.Thin {
			thin = append(thin, m.snapshot())
		}
	}
	for group, names := range names {
		if err := w.lvm.Unmerge(ctx, w.kept, group, names...); err != nil {
			return err
		}
	}
	return w.lvm.Activate(ctx, thin...)
}

// opened says that something opened members between the last look, which found them closed, and LVM's own.
func opened(members []*Member, waited time.Duration, so string) *fault.Error {
	return fault.New(fault.Busy, "%s was opened just when its merge was to begin, and was not closed for %s; %s",
		strings.Join(origins(members), ", "), waited, so)
}
