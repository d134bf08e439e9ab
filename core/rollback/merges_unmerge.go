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

// keepMetadata saves the metadata of LVM that unmerge needs. If that fails, the rollback goes on, with a warning.
func (mg *merges) keepMetadata(ctx context.Context) {
	if err := mg.lvm.KeepMetadata(ctx, mg.metadataDir, mg.state.groups()...); err != nil {
		mg.warnings = append(mg.warnings,
			"should a volume be opened just when LVM begins to merge it, there is no way back: "+err.Error())
	}
}

// dropMetadata removes the saved metadata.
func (mg *merges) dropMetadata() {
	for _, group := range mg.state.groups() {
		_ = os.Remove(filepath.Join(mg.metadataDir, group))
	}
	_ = os.Remove(mg.metadataDir) // fails if another rollback has metadata in it
}

// unmerge has LVM forget the merges that it deferred because their volumes were open. If it succeeds, nothing is rolled
// back. It fails if a member merges or is merged. LVM has removed the devices of thin snapshots when it deferred their
// merges; unmerge makes them again.
func (mg *merges) unmerge(ctx context.Context, states map[*Member]string) error {
	deferred := membersIn(states, mg.state.Members, stateDeferred)
	if len(deferred)+len(membersIn(states, mg.state.Members, stateWaiting)) < len(mg.state.Members) {
		return fault.New(fault.MergeFailed, "other volumes of the set are rolled back already")
	}
	var thin []string
	merges := map[string][]lvm.DeferredMerge{}
	for _, m := range deferred {
		merges[m.VG] = append(merges[m.VG], lvm.DeferredMerge{Origin: m.LV, Snapshot: m.Snapshot})
		if m.Thin {
			thin = append(thin, m.snapshot())
		}
	}
	for group, list := range merges {
		if err := mg.lvm.UndoDeferredMerges(ctx, mg.metadataDir, group, list...); err != nil {
			return err
		}
	}
	if err := mg.lvm.Activate(ctx, thin...); err != nil {
		mg.warnings = append(mg.warnings, "the snapshots are there, and have no device: "+err.Error())
	}
	return nil
}

// giveUpDeferred ends a rollback whose members something opened or deactivated when LVM was about to merge them. It has
// LVM forget the merges if that is possible, and then returns undone as true. The fault names what holds the members
// open (busy) or why their merge does not begin, and says what came of the merges.
func (mg *merges) giveUpDeferred(
	ctx context.Context, d *deferral, waited time.Duration,
) (undone bool, err error) {
	states, err := mg.survey.states(ctx)
	if err == nil {
		err = mg.unmerge(ctx, states)
	}
	f := d.notBegunFault(waited, "LVM was told to forget the merge, and nothing was rolled back")
	again := "run the same task again"
	if err != nil {
		f = d.notBegunFault(waited, "the services stay down")
		f = fault.New(f.Code, "%w; there is no way back: %w", f, err)
		again += ": it goes on from here"
	}
	if d.retryErr != nil {
		return err == nil, f.WithHint("mend the cause, and %s", again)
	}
	return err == nil, mg.volumes.withHolders(ctx, f.WithHint("end what holds it, and %s", again))
}

// notBegunFault returns the fault for members that were active and closed when Rewind checked them, and whose merge LVM
// has not begun.
func (d *deferral) notBegunFault(waited time.Duration, consequence string) *fault.Error {
	names := strings.Join(originNames(d.members), ", ")
	if d.retryErr != nil {
		return fault.New(fault.Of(d.retryErr).Code, "LVM did not begin the merge of %s within %s; %s: %w",
			names, waited, consequence, d.retryErr)
	}
	return fault.New(fault.Busy, "%s was opened just when its merge was to begin, and was not closed for %s; %s",
		names, waited, consequence)
}
