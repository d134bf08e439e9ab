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
func (rb *rollback) keepMetadata(ctx context.Context) {
	if err := rb.lvm.KeepMetadata(ctx, rb.metadataDir, rb.state.groups()...); err != nil {
		rb.warnings = append(rb.warnings,
			"should a volume be opened just when LVM begins to merge it, there is no way back: "+err.Error())
	}
}

// dropMetadata removes the saved metadata.
func (rb *rollback) dropMetadata() {
	for _, group := range rb.state.groups() {
		_ = os.Remove(filepath.Join(rb.metadataDir, group))
	}
	_ = os.Remove(rb.metadataDir) // fails if another rollback has metadata in it
}

// unmerge has LVM forget the merges that it deferred because their volumes were open. If it succeeds, nothing is rolled
// back. It fails if a member merges or is merged. LVM has removed the devices of thin snapshots when it deferred their
// merges; unmerge makes them again.
func (rb *rollback) unmerge(ctx context.Context, states map[*Member]string) error {
	deferred := membersIn(states, rb.state.Members, stateDeferred)
	if len(deferred)+len(membersIn(states, rb.state.Members, stateWaiting)) < len(rb.state.Members) {
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
		if err := rb.lvm.UndoDeferredMerges(ctx, rb.metadataDir, group, list...); err != nil {
			return err
		}
	}
	if err := rb.lvm.Activate(ctx, thin...); err != nil {
		rb.warnings = append(rb.warnings, "the snapshots are there, and have no device: "+err.Error())
	}
	return nil
}

// giveUpOpened ends a rollback whose members something opened when LVM was about to merge them. It has LVM forget the
// merges if that is possible, and then returns undone as true. The fault (busy) names what holds the members open, and
// says what came of the merges.
func (rb *rollback) giveUpOpened(
	ctx context.Context, members []*Member, waited time.Duration,
) (undone bool, err error) {
	states, err := rb.memberStates(ctx)
	if err == nil {
		err = rb.unmerge(ctx, states)
	}
	if err != nil {
		return false, rb.withHolders(ctx, fault.New(fault.Busy, "%w; there is no way back: %w",
			openedFault(members, waited, "the services stay down"), err).
			WithHint("end what holds it, and run the same task again: it goes on from here"))
	}
	return true, rb.withHolders(ctx,
		openedFault(members, waited, "LVM was told to forget the merge, and nothing was rolled back").
			WithHint("end what holds it, and run the same task again"))
}

// openedFault returns the fault for members that were closed when Rewind checked them and open when LVM did.
func openedFault(members []*Member, waited time.Duration, consequence string) *fault.Error {
	return fault.New(fault.Busy, "%s was opened just when its merge was to begin, and was not closed for %s; %s",
		strings.Join(originNames(members), ", "), waited, consequence)
}
