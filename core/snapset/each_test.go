package snapset

import (
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// A set of which each volume has its own instant is known as one for as long as it is there.
func TestASetWithoutOneInstantIsNotTakenForOneWithIt(t *testing.T) {
	for name, c := range map[string]struct {
		volumes []Volume
		each    bool
		is      string
	}{
		"each":                                  {words("/dat", "/pccehr"), true, "volume"},
		"one instant":                           {words("/dat", "/pccehr"), false, "set"},
		"one volume is of one instant, however": {words("/dat"), true, "set"},
	} {
		t.Run(name, func(t *testing.T) {
			w := server(t)
			p := w.mustPlan(Want{Set: "s", Volumes: c.volumes, Each: c.each})
			if _, err := take(t.Context(), w.lvm, p, time.Minute); err != nil {
				t.Fatal(err)
			}
			info := w.info(Query{}).Sets[0]
			again := w.request(Request{State: Present, Volumes: c.volumes, Each: c.each})
			kept, err := again.keep(t.Context())
			if err != nil || info.Consistency != c.is || kept.Data["consistency"] != c.is {
				t.Errorf("the set's consistency is %q, %q: %v", info.Consistency, kept.Data["consistency"], err)
			}
			_, err = w.request(Request{State: Present, Volumes: c.volumes}).keep(t.Context())
			if c.is == "set" && err != nil {
				t.Error(err)
			}
			if c.is == "volume" {
				expect(t, err, fault.SetDiffers, "set s exists", "each volume was taken by itself")
			}
			if _, err := w.request(Request{State: Mounted}).keep(t.Context()); err != nil {
				t.Errorf("a set is asked for without its volumes: %v", err)
			}
		})
	}
}

// A set that held a backup is not taken anew when it has overflowed: whoever rolls back to it by its name wants the backup.
func TestASetThatHeldABackupIsNotTakenAnew(t *testing.T) {
	w := server(t)
	p := w.mustPlan(Want{Set: "s", Volumes: words("/dat"), Use: ForRestore})
	if _, err := take(t.Context(), w.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	w.Fill("vg00/dat_s", 101)
	_, err := w.request(Request{State: Present, Set: "s", Volumes: words("/dat"), Replace: true}).keep(t.Context())
	expect(t, err, fault.SnapshotInvalid, "held a backup")
	if hint := fault.Of(err).Hint; !strings.Contains(hint, "snap_backup action=restore name=s") {
		t.Error(hint)
	}
}
