package snapset

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.pcc.com/rewind/core/fault"
)

func TestDecodeArg(t *testing.T) {
	for name, c := range map[string]struct {
		in   any
		want Volume
	}{
		"mount point": {" /dat ", Volume{Name: "/dat"}},
		"mapping":     {map[string]any{"vg": "vg00", "lv": "dat", "size": 512}, Volume{Name: "vg00/dat", Size: "512"}},
		"options as list": {map[string]any{"vg": "a", "lv": "b", "mountpoint": "/m", "options": []any{"rw", "nouuid"}},
			Volume{Name: "a/b", Mountpoint: "/m", Options: "rw,nouuid"}},
		"null is not given": {map[string]any{"vg": "a", "lv": "b", "size": nil}, Volume{Name: "a/b"}},
	} {
		var v Volume
		if err := v.DecodeArg(c.in); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, v); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDecodeArgErrors(t *testing.T) {
	for want, in := range map[string]any{
		"empty volume":          " ",
		"is a float64":          1.5,
		`unknown key "lvname"`:  map[string]any{"vg": "a", "lv": "b", "lvname": "c"},
		"without vg or lv":      map[string]any{"vg": "a"},
		"size: is not a word":   map[string]any{"vg": "a", "lv": "b", "size": true},
		"options: is not a wor": map[string]any{"vg": "a", "lv": "b", "options": []any{map[string]any{}}},
	} {
		var v Volume
		if err := v.DecodeArg(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", in, err, want)
		}
	}
}

// An element of `volumes` is refused, or decoded without losing anything, however it was written.
func FuzzDecodeArg(f *testing.F) {
	for _, s := range []string{"/dat", "vg00/dat", "", " ", "-x", "a\nb", "/dev/mapper/vg--0-lv", "512"} {
		f.Add(s, s, s)
	}
	f.Fuzz(func(t *testing.T, vg, lv, size string) {
		var word, mapping Volume
		if err := word.DecodeArg(vg); err == nil && (word.Name == "" || word.Name != strings.TrimSpace(vg)) {
			t.Errorf("%q: %+v", vg, word)
		}
		err := mapping.DecodeArg(map[string]any{"vg": vg, "lv": lv, "size": size})
		if isComplete := strings.TrimSpace(vg) != "" && strings.TrimSpace(lv) != ""; isComplete != (err == nil) {
			t.Errorf("%q/%q: %v", vg, lv, err)
		}
		_ = mapping.Problems() // must not panic
	})
}

// A mount by UUID may have mounted the thin snapshot of a set in the place of its origin. The path then leads to the
// snapshot, whose content is old.
func TestSnapshotOfASetIsNotTakenForItsOrigin(t *testing.T) {
	srv := newServer(t)
	if _, err := take(t.Context(), srv.lvm, srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("vg00/t1")}),
		time.Minute); err != nil {
		t.Fatal(err)
	}
	for i, m := range srv.mounts {
		if m.Point == "/t1" {
			snapshot, _ := srv.report().Volume("vg00", "t1_s")
			srv.mounts[i].Dev, srv.mounts[i].Source = devOf(snapshot), snapshot.Path
		}
	}
	_, err := srv.plan(SetSpec{Set: "next", Volumes: volumesNamed("/t1")})
	expectFault(t, err, fault.SetDiffers, "/t1 is vg00/t1_s, a snapshot of set s", "origin vg00/t1")
	if _, err := srv.plan(SetSpec{Set: "next", Volumes: volumesNamed("vg00/t1_s")}); err != nil {
		t.Errorf("named as itself: %v", err)
	}
}
