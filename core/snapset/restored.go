package snapset

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Restored is the backup that a set was filled with. The set's own instant is that of the restore and says nothing of
// its content.
type Restored struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
}

// inTag are the letters that LVM takes in a tag.
var inTag = regexp.MustCompile(`^[A-Za-z0-9_+./=!:&#-]{1,200}$`)

// tag is what the snapshots of such a set have. An ID that LVM does not take is left out.
func (r Restored) tag() string {
	id := r.ID
	if !inTag.MatchString(id) {
		id = ""
	}
	return tagRestored + strconv.FormatInt(r.Time.Unix(), 10) + ":" + id
}

// restoredOf reads a tag, without its beginning; nil if it is none.
func restoredOf(text string) *Restored {
	seconds, id, ok := strings.Cut(text, ":")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if !ok || err != nil {
		return nil
	}
	return &Restored{id, time.Unix(n, 0).UTC()}
}

// String is how people are told of it.
func (r Restored) String() string {
	id := ""
	if r.ID != "" {
		id = r.ID + " "
	}
	return "backup " + id + "of " + r.Time.Local().Format(time.RFC3339)
}

// Holds writes on the set which backup it holds, for whoever looks at it later.
func (o *Own) Holds(ctx context.Context, r Restored) error {
	if err := o.Look(ctx); err != nil {
		return err
	}
	set := o.work.set
	if before := set.Restored; before != nil { // it was filled before
		if err := o.work.lvm.DelTags(ctx, []string{before.tag()}, names(set.Snapshots)...); err != nil {
			return err
		}
	}
	return o.work.lvm.AddTags(ctx, []string{r.tag()}, names(set.Snapshots)...)
}
