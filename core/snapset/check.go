package snapset

import (
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// Check says what is wrong with a set. It names every snapshot that cannot be relied on, with the faults of Unreliable,
// and every one that has no origin any more, to which nothing can be rolled back (unsupported).
// set_differs: snapshots are missing, there are more than the set was taken of, or another run is taking the set.
// merging: the snapshots that are left are being merged, and the others were merged before. not_found: LVM does not see
// one of the set's volume groups.
func (s *Set) Check() error {
	var errs []error
	for _, v := range s.Snapshots {
		errs = append(errs, Unreliable(v), s.checkHasOrigin(v))
	}
	membersErr, left := fault.All(errs...), strings.Join(fullNames(s.Snapshots), ", ")
	switch {
	case s.Complete():
		return membersErr
	case s.checkNotCopied() != nil:
		return s.checkNotCopied()
	case s.Count == 0:
		return fault.New(fault.SetDiffers, "set %s is not finished: another run is taking it, or was interrupted; %s "+
			"are of no common instant", s.Set, left).
			WithHint("lvm_snapshot name=%s state=absent removes them, once no other run is at work (lvm_snapshot_info: "+
				"under_way)", s.Set)
	case membersErr == nil && AllMerging(s.Snapshots):
		return fault.New(fault.Merging, "set %s is being rolled back: %s is all that is not merged yet", s.Set, left).
			WithHint("lvm_merge name=%s, without --check, finishes it and says what became of it", s.Set)
	}
	if err := s.checkVisible(); err != nil {
		return fault.All(err, membersErr)
	}
	differs := fault.New(fault.SetDiffers, "set %s was taken of %d volumes, and of its snapshots only these are left: %s",
		s.Set, s.Count, left).
		WithHint("somebody removed the others: lvm_snapshot name=%s state=absent removes the rest; "+
			"a snapshot alone can be named in lvm_merge's snapshots", s.Set)
	if missing := s.Missing(); len(missing) > 0 {
		differs.Msg += "; there is none of " + strings.Join(missing, ", ")
		differs.With("missing", missing)
	}
	return fault.All(differs, membersErr)
}

// lostOrigin is why nothing can be rolled back to a thin snapshot that has no origin any more, as words that can follow
// "vg/lv has".
const lostOrigin = "no origin any more: it was removed, or another snapshot of it was merged"

// hasLostOrigin says whether a member of a set is a thin snapshot that LVM can merge into nothing. A thick one that has
// no origin is half-made, which is one of its bad states.
func hasLostOrigin(v *lvm.Volume) bool { return v.Kind == lvm.Thin && v.Origin == "" && !v.Merging }

// checkHasOrigin fails with unsupported if nothing can be rolled back to a member because its origin is gone. It does
// not matter to a backup, which only reads its set.
func (s *Set) checkHasOrigin(v *lvm.Volume) error {
	if s.Use == ForBackup || !hasLostOrigin(v) {
		return nil
	}
	return fault.New(fault.Unsupported, "%s has %s; nothing can be rolled back to it", v.FullName(), lostOrigin).
		WithHint("it still holds what its origin held: copy the data from it, or take it out of the set and keep it "+
			"(lvchange --deltag %s %s), or remove it (lvremove %s); lvm_snapshot name=%s state=absent then removes the "+
			"rest of the set", tagID+s.ID, v.FullName(), v.FullName(), s.Set)
}

// checkNotCopied fails with set_differs if more snapshots have the set's tags than the set was taken of: nothing tells
// which of them are its own.
func (s *Set) checkNotCopied() error {
	if s.Count == 0 || len(s.Snapshots) <= s.Count {
		return nil
	}
	return fault.New(fault.SetDiffers, "set %s was taken of %d volumes, and %d snapshots have its tags: %s", s.Set,
		s.Count, len(s.Snapshots), strings.Join(fullNames(s.Snapshots), ", ")).
		WithHint("a volume group was copied (vgimportclone): lvchange --deltag %s takes the copy's snapshots out of the "+
			"set", tagID+s.ID)
}

// checkActive fails with unsupported if a snapshot of an active volume is inactive: lvchange says nothing and succeeds
// when it may not activate a volume. Such a snapshot could neither be mounted nor backed up.
func (s *Set) checkActive(report *lvm.Report) error {
	var errs []error
	for _, v := range s.Snapshots {
		if origin, ok := report.Volume(v.VG, v.Origin); ok && origin.Active && !v.Active {
			errs = append(errs, unsupported("LVM did not activate %s, though %s is active", v.FullName(), origin.FullName()).
				WithHint("%s", lvm.NotActivated))
		}
	}
	return fault.All(errs...)
}

// MergeAgain returns the hint for a volume, vg/lv, whose merge the kernel gave up after an I/O error.
func MergeAgain(origin string) string {
	return "it reads as the snapshot did and must not be removed; dmesg says which disk failed. Once that is mended, " +
		"unmount the volume and activate it anew, and the merge goes on: " +
		"lvchange -an " + origin + " && lvchange -ay " + origin
}

// Unreliable says why a volume or a snapshot cannot be relied on now; nil if nothing is wrong. Faults: snapshot_invalid
// if its content is lost, merge_failed, pool_damaged, or unsupported if it is in another state that must be mended
// first.
func Unreliable(v *lvm.Volume) error {
	bad, why := v.Bad()
	if !bad {
		return nil
	}
	code, hint := fault.Unsupported, "it is not lost: mend that first; dmsetup info "+v.DMName+
		" and dmesg say more, dmsetup resume ends a suspension"
	switch {
	case v.Lost():
		code, hint = fault.SnapshotInvalid, "nothing can be rolled back to it any more; if it belongs to a set, "+
			"state=absent removes the set, and on_invalid=replace takes one of what the volumes hold now; "+
			"if it does not: lvremove "+v.FullName()
	case v.Health == lvm.Partial:
		hint = lvm.Missing
	case v.State == lvm.MergeFailed || v.State == lvm.MergeFailedSuspended:
		origin := v.FullName()
		if v.Origin != "" {
			origin = v.VG + "/" + v.Origin
		}
		code, hint = fault.MergeFailed, MergeAgain(origin)
	case v.Health == lvm.Failed || v.Health == lvm.MetadataReadOnly:
		code, hint = fault.PoolDamaged, "see lvmthin(7), \"Metadata check and repair\""
	}
	f := fault.New(code, "%s: %s", v.FullName(), why).WithHint("%s", hint)
	if v.Origin == "" {
		return f
	}
	return f.With("snapshots", []Taken{{Volume: v.VG + "/" + v.Origin, Snapshot: v.FullName(), State: string(v.State)}})
}
