package snapset

import (
	"testing"
	"time"

	"go.pcc.com/rewind/core/lvm"
)

// A set names the backup that it was last filled with. An ID that LVM does not allow in a tag is left out.
func TestHoldsTagsSetWithItsBackup(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr"), Use: ForRestore})
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	own := srv.operation(Request{Use: ForRestore}).owned(p)
	at := time.Unix(1767225600, 0).UTC()
	for _, c := range []struct{ id, want string }{
		{"20260101T000000Z-lab", "20260101T000000Z-lab"}, {"a b", ""}, {"0a1b2c3d", "0a1b2c3d"},
	} {
		if err := own.TagBackup(t.Context(), Restored{c.id, at}); err != nil {
			t.Fatal(err)
		}
		sets := srv.info(Query{}).Sets
		if got := sets[0].Restored; len(sets) != 1 || got == nil || got.ID != c.want || !got.Time.Equal(at) {
			t.Errorf("after %q it holds %v", c.id, got)
		}
	}
	for _, v := range srv.report().ByTag(tagID + "id-1") {
		if n := restoredTags(v); n != 1 {
			t.Errorf("%s has %d tags of backups", v.FullName(), n)
		}
	}
}

// restoredTags returns how many tags of a volume name a backup.
func restoredTags(v *lvm.Volume) (n int) {
	for _, t := range v.Tags {
		if l, _ := LabelOf(&lvm.Volume{Tags: []string{t}}); l.Restored != nil {
			n++
		}
	}
	return n
}
