package access

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/snapset"
)

func TestDecodeVolume(t *testing.T) {
	tests := []struct {
		arg  any
		want Volume
	}{
		{"/dat", Volume{Volume: snapset.Volume{Name: "/dat"}}},
		{
			map[string]any{"vg": "vg00", "lv": "dat", "size": "1g"},
			Volume{Volume: snapset.Volume{Name: "vg00/dat", Size: "1g"}},
		},
		{map[string]any{"path": "/boot/", "snapshot": false}, Volume{Volume: snapset.Volume{Name: "/boot"}, Live: true}},
		{map[string]any{"path": "/boot", "snapshot": "no"}, Volume{Volume: snapset.Volume{Name: "/boot"}, Live: true}},
		{map[string]any{"path": "/dat", "size": "1g"}, Volume{Volume: snapset.Volume{Name: "/dat", Size: "1g"}}},
	}
	for _, tt := range tests {
		var v Volume
		if err := v.DecodeArg(tt.arg); err != nil {
			t.Errorf("%v: %v", tt.arg, err)
		}
		if diff := cmp.Diff(tt.want, v); diff != "" {
			t.Errorf("%v: %s", tt.arg, diff)
		}
	}
	for _, arg := range []any{
		"", 5, map[string]any{"path": "boot", "snapshot": false}, map[string]any{"snapshot": false},
		map[string]any{"path": "/boot", "snapshot": "maybe"},
		map[string]any{"path": "/boot", "snapshot": false, "vg": "vg00"},
	} {
		var v Volume
		if err := v.DecodeArg(arg); err == nil {
			t.Errorf("%v became %+v", arg, v)
		}
	}
}

// tempDir returns a new directory, the mount that it is on, and all mounts.
func tempDir(t *testing.T) (dir string, on filesystem.Mount, mounts []filesystem.Mount) {
	t.Helper()
	mounts, err := filesystem.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if on, err = filesystem.Holding(mounts, dir); err != nil {
		t.Fatal(err)
	}
	return dir, on, mounts
}

func TestRepositoryOnMemberIsRefused(t *testing.T) {
	dir, on, mounts := tempDir(t)
	d := backup.Description{Name: "mirror", Local: []string{dir + "/not/there/yet"}}
	err := RefusePlaceOnMember(d, mounts, map[filesystem.Dev]string{on.Dev: "vg00/dat"})
	if !errors.Is(err, fault.BadArguments) || !strings.Contains(err.Error(), "vg00/dat") {
		t.Errorf("got %v", err)
	}
	if err := RefusePlaceOnMember(d, mounts, map[filesystem.Dev]string{{Major: 4095, Minor: 1}: "vg00/dat"}); err != nil {
		t.Errorf("on another volume: %v", err)
	}
}

// VolumesOfRoots returns the volumes again from whose names Roots made the roots.
func TestVolumesOfRoots(t *testing.T) {
	got := VolumesOfRoots([]string{"/dat", unmountedDir + "/vg00/unmounted"})
	if diff := cmp.Diff([]snapset.Volume{{Name: "/dat"}, {Name: "vg00/unmounted"}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestHideMasksSecretsInErrors(t *testing.T) {
	h := &Host{mask: ansible.Hide("swordfish")}
	f := fault.Of(h.MaskError(fault.New(fault.BackendFailed, "said swordfish").
		With("stderr", "swordfish").WithHint("not swordfish")))
	if strings.Contains(f.Msg+f.Hint, "swordfish") || f.Facts["stderr"] != "********" || f.Code != fault.BackendFailed {
		t.Errorf("%+v", f)
	}
	if h.MaskError(nil) != nil {
		t.Error("no error became one")
	}
}

func TestUseAndValidateOfArguments(t *testing.T) {
	a := Defaults()
	a.Host, a.BackendSHA256 = "db1", strings.Repeat("AB", 32)
	use, err := a.Use()
	if err != nil || a.Validate() != nil {
		t.Fatal(err, a.Validate())
	}
	want := Use{Backend: "mirror", SHA256: strings.Repeat("ab", 32), Host: "db1", Stall: 30 * time.Minute}
	if diff := cmp.Diff(want, use); diff != "" {
		t.Error(diff)
	}
	a = Arguments{Backend: "../x", BackendSHA256: "12", Host: "a/b", StallTimeout: 1}
	if n := len(fault.Each(a.Validate())); n != 4 {
		t.Errorf("%d wrong arguments: %v", n, a.Validate())
	}
}

// A backend that removes millions of files is silent for hours, and is allowed to be: the run must not end before.
func TestRunOutlivesASilentBackend(t *testing.T) {
	for _, stall := range []time.Duration{time.Minute, 30 * time.Minute, 24 * time.Hour} {
		if got := QuietLimit(Use{Stall: stall}); got <= plugin.QuietFactor*stall {
			t.Errorf("with a stall limit of %v the run ends after %v", stall, got)
		}
	}
}
