package snapset

import (
	"strconv"
	"strings"
	"time"

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
	tagVolumes  = "rewind:volumes="  // the names of all origins, vg/lv, each but the first after an &
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

	// Volumes are the origins as they were named when the set was taken, vg/lv. None are known of a set whose names do
	// not fit into a tag, or that an earlier version has taken.
	Volumes []string
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
	if names := strings.Join(l.Volumes, "&"); names != "" && len(tagVolumes+names) <= maxTag {
		tags = append(tags, tagVolumes+names)
	}
	return tags
}

// maxTag is the length of the longest tag that is given, in bytes. LVM takes 1024 (lvm(8)).
const maxTag = 1000

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
		if s, ok := strings.CutPrefix(t, tagVolumes); ok {
			l.Volumes = strings.Split(s, "&")
		}
		if s, ok := strings.CutPrefix(t, tagRestored); ok {
			l.Restored = parseRestored(s)
		}
		l.Each = l.Each || t == tagEach
	}
	return l, l.Set != "" && l.ID != ""
}
