package snapset

import (
	"context"
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

// inTag tells whether LVM takes text in a tag (lvm(8)). No regexp: that alone is 200 KB, which Ansible sends.
func inTag(text string) bool {
	other := func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("_+./=!:&#-", r)
	}
	return text != "" && len(text) <= 200 && strings.IndexFunc(text, other) < 0
}

// tag is what the snapshots of such a set have. An ID that LVM does not take is left out.
func (r Restored) tag() string {
	id := r.ID
	if !inTag(id) {
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
