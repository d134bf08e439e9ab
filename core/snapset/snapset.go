// Package snapset takes a named set of LVM snapshots at one instant, finds it again, mounts it and removes it.
//
// A set is what its tags say it is: every snapshot has tags with the set's name, its ID, the number of members and the
// time. Names of volumes are for people, and no decision is based on them: a snapshot without Rewind's tags, whatever
// its name, is somebody else's.
//
// The package promises: a set has all of its members or does not exist; writes wait only during the instant itself, in
// which no program runs; and whatever happens to the process, the Settle of Handler brings the server back to a state
// in which there is no part of the set and nothing is frozen or suspended.
package snapset

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// Set is a set that exists.
type Set struct {
	Label
	Snapshots []*lvm.Volume // sorted by name
	hidden    []string      // the volume groups of the set that LVM does not see
}

// Complete says whether there are as many snapshots as the set has members.
func (s *Set) Complete() bool { return len(s.Snapshots) == s.Count }

// Missing returns the volumes, vg/lv, whose snapshots are missing in the set. It returns none if they are not known,
// since the set says only what its origins were called when it was taken.
func (s *Set) Missing() []string {
	isThere := func(volume string) bool {
		return slices.ContainsFunc(s.Snapshots, func(v *lvm.Volume) bool {
			return volume == v.VG+"/"+v.Origin || SnapshotName(volume, s.Set) == v.FullName()
		})
	}
	missing := slices.DeleteFunc(slices.Clone(s.Volumes), isThere)
	if len(missing) != s.Count-len(s.Snapshots) {
		return nil
	}
	return missing
}

// Groups returns the names of the volume groups that the set lies in, sorted.
func (s *Set) Groups() []string {
	var names []string
	for _, v := range s.Snapshots {
		names = append(names, v.VG)
	}
	return sortedUnique(names)
}

// snapshotOf returns the set's snapshot of a volume; nil if there is none.
func (s *Set) snapshotOf(origin *lvm.Volume) *lvm.Volume {
	for _, v := range s.Snapshots {
		if v.VG == origin.VG && v.Origin == origin.Name {
			return v
		}
	}
	return nil
}

// volumes returns the origins in the form in which a user names them.
func (s *Set) volumes() []Volume {
	var out []Volume
	for _, v := range s.Snapshots {
		out = append(out, Volume{Name: v.VG + "/" + v.Origin})
	}
	return out
}

// merging returns the name, vg/lv, of a snapshot that is being merged; empty if there is none.
func (s *Set) merging() string {
	for _, v := range s.Snapshots {
		if v.Merging {
			return v.FullName()
		}
	}
	return ""
}

// All returns every set in the report, ordered by name, the oldest first.
func All(r *lvm.Report) []*Set {
	byID := map[string]*Set{}
	for gi := range r.Groups {
		for vi := range r.Groups[gi].Volumes {
			v := &r.Groups[gi].Volumes[vi]
			label, ok := LabelOf(v)
			if !ok {
				continue
			}
			if byID[label.ID] == nil {
				byID[label.ID] = &Set{Label: label}
			}
			byID[label.ID].Snapshots = append(byID[label.ID].Snapshots, v)
		}
	}
	sets := make([]*Set, 0, len(byID))
	for _, s := range byID {
		sort.Slice(s.Snapshots, func(i, j int) bool { return s.Snapshots[i].FullName() < s.Snapshots[j].FullName() })
		s.hidden = s.hiddenGroups(r)
		sets = append(sets, s)
	}
	sort.Slice(sets, func(i, j int) bool {
		a, b := sets[i], sets[j]
		switch {
		case a.Set != b.Set:
			return a.Set < b.Set
		case !a.Time.Equal(b.Time):
			return a.Time.Before(b.Time)
		}
		return a.Snapshots[0].FullName() < b.Snapshots[0].FullName()
	})
	return sets
}

// Find returns the set of that name, or nil if there is none. Fault: set_differs if there are two, as when volume
// groups of two machines are brought together, because nothing tells which one is meant.
func Find(r *lvm.Report, name string) (*Set, error) {
	var found *Set
	for _, s := range All(r) {
		if s.Set != name {
			continue
		}
		if found != nil {
			return nil, fault.New(fault.SetDiffers, "there are two sets named %q: %s and %s", name,
				strings.Join(fullNames(found.Snapshots), ", "), strings.Join(fullNames(s.Snapshots), ", ")).
				WithHint("remove one of them with lvremove, or name the snapshots themselves in lvm_merge's snapshots")
		}
		found = s
	}
	return found, nil
}

// None returns the message that there is no set of that name, with the names of the sets that there are.
func None(r *lvm.Report, name string) string {
	var others []string
	for _, s := range All(r) {
		others = append(others, s.Set)
	}
	msg := fmt.Sprintf("there is no set %q", name)
	if len(others) > 0 {
		msg += "; there is " + strings.Join(sortedUnique(others), ", ")
	}
	return msg
}

// fullNames returns vg/lv of each volume.
func fullNames(vs []*lvm.Volume) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = v.FullName()
	}
	return out
}

// sortedUnique sorts in, and returns its elements without repetitions.
func sortedUnique(in []string) []string {
	sort.Strings(in)
	var out []string
	for _, s := range in {
		if len(out) == 0 || out[len(out)-1] != s {
			out = append(out, s)
		}
	}
	return out
}
