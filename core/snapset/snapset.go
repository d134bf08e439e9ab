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
	"sort"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// The tags of a snapshot. LVM allows letters, digits and _+.-/=!:&# in a tag (lvm(8)).
const (
	tagSet      = "rewind:set="
	tagID       = "rewind:id="
	tagRollback = "rewind:back=" // given to an origin: see RollbackTag
	tagCount    = "rewind:count="
	tagTime     = "rewind:time=" // Unix seconds
	tagUse      = "rewind:use="  // what the set was taken for; not given for ForUser
	tagEach     = "rewind:each=1"
	tagRestored = "rewind:restored=" // Unix seconds, a colon, and the ID of a backup: see Restored
)

// Label is what the tags of a snapshot say of the set that it belongs to.
type Label struct {
	Set      string // its name
	ID       string
	Count    int       // the number of members; 0 while the set is being taken
	Time     time.Time // when it was taken, in whole seconds
	Use      Use
	Each     bool      // each volume was taken at an instant of its own
	Restored *Restored // the backup that it was filled with; nil: none
}

// Consistency returns how the set was taken, as a value of lvm_snapshot's argument consistency.
func (l Label) Consistency() string {
	if l.Each {
		return "volume"
	}
	return "set"
}

// Use is what a set was taken for.
type Use string

// The uses of a set.
const (
	ForUser    Use = ""        // by lvm_snapshot
	ForBackup  Use = "backup"  // to be read by a backup, and removed afterwards
	ForRestore Use = "restore" // to be filled with a backup
)

// tags returns the tags that say all of the label except Restored, which is tagged when the set has been filled.
func (l Label) tags() []string {
	tags := []string{tagSet + l.Set, tagID + l.ID, tagTime + strconv.FormatInt(l.Time.Unix(), 10)}
	if l.Count > 0 {
		tags = append(tags, l.countTag())
	}
	if l.Use != ForUser {
		tags = append(tags, tagUse+string(l.Use))
	}
	if l.Each {
		tags = append(tags, tagEach)
	}
	return tags
}

// countTag returns the tag that makes snapshots a set. Snapshots without it belong to a set that is being taken, or
// that was not finished.
func (l Label) countTag() string { return tagCount + strconv.Itoa(l.Count) }

// RollbackTag returns the tag for the origin that holds the journal, if it is to be rolled back at a boot to the set
// with this ID. The merge brings back an older journal, which does not know of the rollback. When all merges have
// ended, this tag is the only trace of it.
func RollbackTag(id string) string { return tagRollback + id }

// LabelOf reads the tags of a volume; false if it belongs to no set.
func LabelOf(v *lvm.Volume) (Label, bool) {
	var l Label
	for _, t := range v.Tags {
		if s, ok := strings.CutPrefix(t, tagSet); ok {
			l.Set = s
		}
		if s, ok := strings.CutPrefix(t, tagID); ok {
			l.ID = s
		}
		if s, ok := strings.CutPrefix(t, tagUse); ok {
			l.Use = Use(s)
		}
		if s, ok := strings.CutPrefix(t, tagCount); ok {
			l.Count, _ = strconv.Atoi(s)
		}
		if s, ok := strings.CutPrefix(t, tagTime); ok {
			n, _ := strconv.ParseInt(s, 10, 64)
			l.Time = time.Unix(n, 0)
		}
		if s, ok := strings.CutPrefix(t, tagRestored); ok {
			l.Restored = parseRestored(s)
		}
		l.Each = l.Each || t == tagEach
	}
	return l, l.Set != "" && l.ID != ""
}

// Set is a set that exists.
type Set struct {
	Label
	Snapshots []*lvm.Volume // sorted by name
}

// Complete says whether there are as many snapshots as the set has members.
func (s *Set) Complete() bool { return len(s.Snapshots) == s.Count }

// Groups returns the names of the volume groups that the set lies in, sorted.
func (s *Set) Groups() []string {
	var names []string
	for _, v := range s.Snapshots {
		names = append(names, v.VG)
	}
	return sortedUnique(names)
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
		sets = append(sets, s)
	}
	sort.Slice(sets, func(i, j int) bool {
		if sets[i].Set != sets[j].Set {
			return sets[i].Set < sets[j].Set
		}
		return sets[i].Time.Before(sets[j].Time)
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

// CheckName refuses a set name that LVM would not allow in a tag or at the end of a volume's name (lvm(8), "Valid
// names"). Fault: bad_arguments.
func CheckName(name string) error {
	hint := "use letters, digits, and . _ + - (not first), at most 64 characters, such as before-upgrade"
	why := ""
	switch {
	case name == "":
		why = "it is empty"
	case len(name) > maxName:
		why = fmt.Sprintf("it has %d characters", len(name))
	case name[0] == '-' || name[0] == '.':
		why = "of its first character"
	}
	if why != "" {
		return fault.New(fault.BadArguments, "%q is no name for a set, because %s", name, why).WithHint("%s", hint)
	}
	if err := lvm.CheckNew("vg", SnapshotName("lv", name)); err != nil {
		return fault.New(fault.BadArguments, "%q is no name for a set: its snapshot of lv would be %v", name, err).
			WithHint("%s", hint)
	}
	return nil
}

// maxName is the greatest length of a set's name. It leaves room for the volume's own name: a snapshot's name consists
// of both and may have 127 characters.
const maxName = 64

// SnapshotName returns the name of the snapshot of volume lv in set.
func SnapshotName(lv, set string) string { return lv + "_" + set }

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
