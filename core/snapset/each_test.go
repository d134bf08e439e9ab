package snapset

import (
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// Whether each volume of a set was taken at an instant of its own is known for as long as the set exists.
func TestSetWithConsistencyVolumeIsRefusedForConsistencySet(t *testing.T) {
	for name, c := range map[string]struct {
		volumes     []Volume
		each        bool
		consistency string
	}{
		"each":                              {volumesNamed("/dat", "/pccehr"), true, "volume"},
		"one instant":                       {volumesNamed("/dat", "/pccehr"), false, "set"},
		"one volume always has one instant": {volumesNamed("/dat"), true, "set"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			p := srv.mustPlan(SetSpec{Set: "s", Volumes: c.volumes, Each: c.each})
			if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
				t.Fatal(err)
			}
			info := srv.info(Query{}).Sets[0]
			again := srv.operation(Request{State: Present, Volumes: c.volumes, Each: c.each})
			kept, err := again.makePresent(t.Context())
			if err != nil || info.Consistency != c.consistency || kept.Consistency() != c.consistency {
				t.Errorf("the set's consistency is %q, %q: %v", info.Consistency, kept.Consistency(), err)
			}
			_, err = srv.operation(Request{State: Present, Volumes: c.volumes}).makePresent(t.Context())
			if c.consistency == "set" && err != nil {
				t.Error(err)
			}
			if c.consistency == "volume" {
				expectFault(t, err, fault.SetDiffers, "set s exists", "each volume was taken by itself")
			}
			mounted := srv.operation(Request{State: Mounted, Mount: MountOptions{Create: true}})
			if _, err := mounted.makePresent(t.Context()); err != nil {
				t.Errorf("without volumes: %v", err)
			}
		})
	}
}

// If a set that held a backup has overflowed, it is not taken again from the volumes: whoever rolls back to it by its
// name wants the backup.
func TestReplaceRefusesOverflowedRestoreSet(t *testing.T) {
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat"), Use: ForRestore})
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	srv.Fill("vg00/dat_s", 101)
	request := Request{State: Present, Set: "s", Volumes: volumesNamed("/dat"), Replace: true}
	_, err := srv.operation(request).makePresent(t.Context())
	expectFault(t, err, fault.SnapshotInvalid, "held a backup")
	if hint := fault.Of(err).Hint; !strings.Contains(hint, "snap_backup action=restore name=s") {
		t.Error(hint)
	}
}
