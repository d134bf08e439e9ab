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

// giveUpOpened ends a rollback whose members something opened when LVM was about to merge them. It has LVM forget the
// merges if that is possible, and then returns undone as true. The fault (busy) names what holds the members open, and
// says what came of the merges.
func (mg *merges) giveUpOpened(
	ctx context.Context, members []*Member, waited time.Duration,
) (undone bool, err error) {
	states, err := mg.survey.states(ctx)
	if err == nil {
		err = mg.unmerge(ctx, states)
	}
	if err != nil {
		return false, mg.volumes.withHolders(ctx, fault.New(fault.Busy, "%w; there is no way back: %w",
			openedFault(members, waited, "the services stay down"), err).
			WithHint("end what holds it, and run the same task again: it goes on from here"))
	}
	return true, mg.volumes.withHolders(ctx,
		openedFault(members, waited, "LVM was told to forget the merge, and nothing was rolled back").
			WithHint("end what holds it, and run the same task again"))
}

// openedFault returns the fault for members that were closed when Rewind checked them and open when LVM did.
func openedFault(members []*Member, waited time.Duration, consequence string) *fault.Error {
	return fault.New(fault.Busy, "%s was opened just when its merge was to begin, and was not closed for %s; %s",
		strings.Join(originNames(members), ", "), waited, consequence)
}
