package snapset

import (
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// checkWanted says why an existing set is not what the request asks for: one of the same volumes, taken as the request
// wants it, and reliable. replace says that the set has overflowed, and that the request wants it to be taken again.
func (s *Set) checkWanted(req Request, targets []Target) (replace bool, err error) {
	if err := s.checkSameVolumes(targets, req.State); err != nil {
		return false, err
	}
	if err := s.Check(); err != nil {
		if !req.Replace || fault.Of(err).Code != fault.SnapshotInvalid {
			return false, err
		}
		if s.Use == ForRestore { // whoever uses it by its name expects the backup that it held
			return false, fault.New(fault.SnapshotInvalid,
				"set %s held a backup, and taken again it would hold what the volumes hold now: %w", s.Set, err).
				WithHint("lvm_snapshot name=%[1]s state=absent removes it, and snap_backup action=restore name=%[1]s "+
					"restores again", s.Set)
		}
		return true, s.checkNotMerging() // an administrator may merge the others by hand
	}
	if err := s.checkNotMerging(); err != nil {
		return false, err
	}
	if s.Each && !req.Each && len(targets) > 0 {
		return false, fault.New(fault.SetDiffers, "set %s exists, and is of no common instant: each volume was "+
			"taken by itself", s.Set).
			WithHint("choose another name, remove it first (lvm_snapshot name=%s state=absent), or accept it as it is: "+
				"consistency=volume", s.Set)
	}
	return false, nil
}

// checkNotMerging fails with merging if a snapshot of the set is being merged.
func (s *Set) checkNotMerging() error {
	merging := s.merging()
	if merging == "" {
		return nil
	}
	return fault.New(fault.Merging, "set %s is being rolled back: %s is merging", s.Set, merging).
		WithHint("lvm_merge name=%s wait=true waits for it", s.Set)
}

// checkSameVolumes fails with set_differs if the set is not one of the targets, which are the volumes that the request
// names. Without targets the request is for the set as it is.
func (s *Set) checkSameVolumes(targets []Target, state string) error {
	if len(targets) == 0 {
		return nil
	}
	have := map[string]bool{}
	for _, v := range s.Snapshots {
		have[v.VG+"/"+v.Origin] = true
	}
	var missing []string
	for _, t := range targets {
		if !have[t.LV.FullName()] {
			missing = append(missing, t.LV.FullName())
		}
		delete(have, t.LV.FullName())
	}
	var extra []string
	for name := range have {
		extra = append(extra, name)
	}
	removesOrUnmounts := state == Absent || state == Unmounted
	if !s.Complete() { // Check reports that; a volume without a snapshot may have been a member
		missing = nil
		if !removesOrUnmounts {
			return nil
		}
	}
	if len(missing)+len(extra) == 0 {
		return nil
	}
	f := fault.New(fault.SetDiffers, "set %s exists, taken %s, but not of these volumes",
		s.Set, s.Time.Local().Format(time.RFC3339))
	if len(missing) > 0 {
		f.Msg += "; it has no snapshot of " + strings.Join(sortedUnique(missing), ", ")
	}
	if len(extra) > 0 {
		f.Msg += "; it also has one of " + strings.Join(sortedUnique(extra), ", ")
	}
	if removesOrUnmounts {
		return f.WithHint("leave volumes out to have the whole set %s, or name another set", state)
	}
	return f.WithHint("choose another name, or remove it first: lvm_snapshot name=%s state=absent", s.Set)
}
