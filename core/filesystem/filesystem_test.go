package filesystem

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// table has the mounts of a server with /dat and /pccehr, a bind mount, and two mounts on top of each other at /mnt.
const table = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 22 0:22 / /proc rw,nosuid - proc proc rw
40 22 253:0 / /dat rw,relatime shared:20 - xfs /dev/mapper/vg00-dat rw,attr2,inode64,usrquota,noquota
41 22 253:3 / /pccehr rw,noatime shared:21 - ext4 /dev/mapper/vg00-pccehr rw,data=ordered
42 22 253:0 /pg /srv/my\040data rw,relatime shared:20 - xfs /dev/mapper/vg00-dat rw
50 22 0:50 / /mnt rw - tmpfs none rw
51 50 0:51 / /mnt rw - tmpfs none rw
`

func mountsFrom(t *testing.T, text string) []Mount {
	t.Helper()
	mounts, err := parseMounts([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return mounts
}

func TestParseMounts(t *testing.T) {
	mounts := mountsFrom(t, table)
	want := Mount{
		ID: 42, Parent: 22, Dev: Dev{253, 0}, Root: "/pg", Point: "/srv/my data", Type: "xfs",
		Source: "/dev/mapper/vg00-dat", Options: "rw,relatime", Super: "rw", Optional: "shared:20",
	}
	if diff := cmp.Diff(want, mounts[4]); diff != "" {
		t.Error(diff)
	}
	if on := On(mounts, Dev{253, 0}); len(on) != 2 || on[0].Point != "/dat" || on[1].Point != "/srv/my data" {
		t.Errorf("mounts of 253:0: %v", on)
	}
}

// The order of the kernel's table does not say which mount is on top.
func TestAtFindsTheTopmostMount(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	lines[5], lines[6] = lines[6], lines[5]
	for _, text := range []string{table, strings.Join(lines, "\n")} {
		m, ok := At(mountsFrom(t, text), "/mnt")
		if !ok || m.ID != 51 {
			t.Errorf("topmost at /mnt: %+v, %v", m, ok)
		}
	}
	if m, ok := At(mountsFrom(t, table), "/dat/pg"); ok {
		t.Errorf("/dat/pg is no mount point, got %+v", m)
	}
}

func TestHoldingByName(t *testing.T) {
	mounts := mountsFrom(t, table)
	for path, point := range map[string]string{
		"/":                 "/",
		"/data/no/such":     "/", // it begins with /dat, but is not below /dat
		"/dat":              "/dat",
		"/dat/no/such/file": "/dat",
		"/srv/my data/x":    "/srv/my data",
	} {
		m, err := Holding(mounts, path)
		if err != nil || m.Point != point {
			t.Errorf("%s is on %q, %v; want %s", path, m.Point, err, point)
		}
	}
	if m, err := Holding(nil, "/dat"); err == nil {
		t.Errorf("no mounts, but %+v", m)
	}
}

// This test uses the mounts of the machine that runs it.
func TestHoldingAsksTheKernel(t *testing.T) {
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Holding(mounts, "/proc/self/status")
	if err != nil || m.Point != "/proc" || m.Type != "proc" {
		t.Errorf("/proc/self/status is on %+v, %v", m, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc/sys", link); err != nil {
		t.Fatal(err)
	}
	m, err = Holding(mounts, link+"/no-such")
	if err != nil || m.Point != "/proc" {
		t.Errorf("a link into /proc is on %+v, %v", m, err)
	}
}

func TestInUseNamesADeviceOnce(t *testing.T) {
	mounts := mountsFrom(t, table)
	got := EssentialDevices(mounts, "/dat/no-such/rewind", "/dat/no-such/tmp")
	want := map[Dev]string{{254, 1}: "/", {253, 0}: "/dat/no-such/rewind"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestIsUnder(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"/dat", "/dat", true}, {"/dat/x", "/dat", true}, {"/data", "/dat", false}, {"/x", "/", true}, {"/", "/dat", false},
	} {
		if got := isUnder(c.path, c.dir); got != c.want {
			t.Errorf("under(%s, %s) = %v", c.path, c.dir, got)
		}
	}
}
