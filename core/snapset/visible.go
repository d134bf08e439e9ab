package snapset

import (
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// hiddenGroups returns those of the volume groups that LVM does not see, as while a disk is late or pulled.
func hiddenGroups(r *lvm.Report, groups []string) []string {
	isVisible := func(name string) bool {
		_, ok := r.Group(name)
		return ok
	}
	return slices.DeleteFunc(slices.Clone(groups), isVisible)
}

// hiddenFault is the fault for volume groups that LVM does not see. what says what lies in them, and then what to do
// when it is known whether a disk is missing.
func hiddenFault(groups []string, what, then string) *fault.Error {
	noun := "volume group "
	if len(groups) > 1 {
		noun = "volume groups "
	}
	return fault.New(fault.NotFound, "LVM does not see %s%s, %s", noun, strings.Join(groups, ", "), what).
		WithHint("vgs and pvs show whether a disk is missing; %s", then)
}

// checkVisible fails with not_found if LVM does not see a volume group of the plan: what there is of the set in it
// cannot be found.
func (p *Plan) checkVisible(r *lvm.Report) error {
	hidden := hiddenGroups(r, p.Groups())
	if len(hidden) == 0 {
		return nil
	}
	return hiddenFault(hidden, "in which snapshots of set "+p.Set+" may be left", "when it is back, run this again")
}

// hiddenGroups returns the volume groups of an incomplete set that LVM does not see. The tags have the names that the
// groups had when the set was taken: if some were renamed, the set lies in as many groups that the tags do not name.
func (s *Set) hiddenGroups(r *lvm.Report) []string {
	if s.Complete() {
		return nil
	}
	var named []string
	for _, volume := range s.Volumes {
		group, _, _ := strings.Cut(volume, "/")
		named = append(named, group)
	}
	named = sortedUnique(named)
	hidden, renamed := hiddenGroups(r, named), 0
	for _, group := range s.Groups() {
		if !slices.Contains(named, group) {
			renamed++
		}
	}
	if len(hidden) <= renamed {
		return nil
	}
	return hidden
}

// checkVisible fails with not_found if LVM does not see a volume group of the set.
func (s *Set) checkVisible() error {
	if len(s.hidden) == 0 {
		return nil
	}
	return hiddenFault(s.hidden, "in which set "+s.Set+" has snapshots too", "when it is back, run this again. "+
		"If it is gone for good, lvremove "+strings.Join(fullNames(s.Snapshots), " ")+" removes what is left of the set")
}
