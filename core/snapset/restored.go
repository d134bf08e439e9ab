package snapset

import (
	"context"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/lvm"
)

// Restored names the backup that a set was filled with, and the time of that backup. The set's own instant is that of
// the restore and does not say how old the content is.
type Restored struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
}

// maxTagID is the longest ID that a tag names, in bytes.
const maxTagID = 200

// tag returns the tag for the snapshots of a set that holds the backup. An ID that LVM does not allow in a tag is left
// out.
func (r Restored) tag() string {
	id := r.ID
	if len(id) > maxTagID || !lvm.IsTagText(id) {
		id = ""
	}
	return tagRestored + strconv.FormatInt(r.Time.Unix(), 10) + ":" + id
}

// parseRestored reads the part of a tag after tagRestored; nil if that is not valid.
func parseRestored(text string) *Restored {
	seconds, id, ok := strings.Cut(text, ":")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if !ok || err != nil {
		return nil
	}
	return &Restored{id, time.Unix(n, 0).UTC()}
}

// String describes the backup, in local time.
func (r Restored) String() string {
	id := ""
	if r.ID != "" {
		id = r.ID + " "
	}
	return "backup " + id + "of " + r.Time.Local().Format(time.RFC3339)
}

// TagBackup gives the set's snapshots a tag that names the backup they hold, for whoever looks at the set later. It
// replaces an older such tag. Faults: those of Look.
func (o *OwnedSet) TagBackup(ctx context.Context, r Restored) error {
	if err := o.Look(ctx); err != nil {
		return err
	}
	set := o.set
	if before := set.Restored; before != nil { // it was filled before
		if err := o.lvm.DelTags(ctx, []string{before.tag()}, fullNames(set.Snapshots)...); err != nil {
			return err
		}
	}
	return o.lvm.AddTags(ctx, []string{r.tag()}, fullNames(set.Snapshots)...)
}
