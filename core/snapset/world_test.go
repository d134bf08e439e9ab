package snapset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

const mib = 1 << 20

// testServer is a server with the volumes of a fake LVM, some of which are mounted.
type testServer struct {
	*lvmtest.Fake
	t      *testing.T
	lvm    *lvm.LVM
	mounts []filesystem.Mount

	journalDir string // as View.Journal
}

func newTestServer(t *testing.T, groups ...lvmtest.Group) *testServer {
	t.Helper()
	fake := lvmtest.New(groups...)
	return &testServer{Fake: fake, t: t, lvm: fake.LVM().In(t.TempDir())}
}

func (srv *testServer) report() *lvm.Report {
	srv.t.Helper()
	r, err := srv.lvm.Report(srv.t.Context())
	if err != nil {
		srv.t.Fatal(err)
	}
	return r
}

// mount marks a volume as mounted.
func (srv *testServer) mount(name, point, fstype string) {
	srv.t.Helper()
	v, ok := srv.report().ByPath(name)
	if !ok {
		srv.t.Fatalf("no volume %s", name)
	}
	srv.mounts = append(srv.mounts, filesystem.Mount{
		ID: len(srv.mounts) + 1, Dev: devOf(v), Root: "/", Point: point, Type: fstype, Source: v.Path, Options: "rw",
	})
	srv.SetOpen(name, 1)
}

func (srv *testServer) view() *View {
	srv.t.Helper()
	return &View{
		Report: srv.report(), Mounts: srv.mounts, Sysfs: srv.sysfs(), Device: filesystem.BlockDevice, Journal: srv.journalDir,
	}
}

// sysfs makes a directory like /sys with the fake's volumes, none of which lies on another device, and a disk.
func (srv *testServer) sysfs() string {
	srv.t.Helper()
	dir := srv.t.TempDir()
	device := func(dev filesystem.Dev, files map[string]string) {
		files["dev"] = dev.String()
		for file, text := range files {
			path := filepath.Join(dir, "dev/block", dev.String(), file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				srv.t.Fatal(err)
			}
		}
	}
	device(filesystem.Dev{Major: 8, Minor: 1}, map[string]string{})
	for _, g := range srv.report().Groups {
		for i := range g.Volumes {
			v := &g.Volumes[i]
			device(devOf(v), map[string]string{"dm/uuid": "LVM-" + v.UUID, "dm/name": v.DMName})
		}
	}
	return dir
}

// volumesNamed returns a Volume for each name.
func volumesNamed(names ...string) []Volume {
	var out []Volume
	for _, name := range names {
		out = append(out, Volume{Name: name})
	}
	return out
}

// plan plans a set of these volumes.
func (srv *testServer) plan(want SetSpec) (*Plan, error) {
	srv.t.Helper()
	view := srv.view()
	targets, err := view.Resolve(want.Volumes)
	if err != nil {
		return nil, err
	}
	return view.New(want, "id-1", targets)
}

func (srv *testServer) mustPlan(want SetSpec) *Plan {
	srv.t.Helper()
	p, err := srv.plan(want)
	if err != nil {
		srv.t.Fatal(err)
	}
	return p
}

// assertUntouched fails the test if anything of a set is left: a snapshot, a suspended origin, or a changed table.
func (srv *testServer) assertUntouched(origins ...string) {
	srv.t.Helper()
	for _, g := range srv.report().Groups {
		for i := range g.Volumes {
			v := &g.Volumes[i]
			if _, inSet := v.Tag(tagSet); inSet {
				srv.t.Errorf("%s was left behind", v.FullName())
			}
		}
	}
	for _, name := range origins {
		if srv.Suspended(name) {
			srv.t.Errorf("%s was left suspended", name)
		}
		if table, prepared := srv.Mapped(name); table != "" || prepared {
			srv.t.Errorf("%s was left with the table %q, with a prepared one: %v", name, table, prepared)
		}
	}
}

// expectFault fails the test unless err has the code and its message contains all of these texts.
func expectFault(t *testing.T, err error, code fault.Code, words ...string) {
	t.Helper()
	if err == nil || !errors.Is(err, code) && fault.Of(err).Code != code {
		t.Errorf("%v is no %s", err, code)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

// noFstab makes the test run without an fstab.
func noFstab(t *testing.T) {
	fstabFile = t.TempDir() + "/none"
	t.Cleanup(func() { fstabFile = "/etc/fstab" })
}

// assertResolves fails the test unless each list of volumes resolves, or, if wantErrors has a text for it, is
// unsupported with that text in the message.
func assertResolves(t *testing.T, view *View, wantErrors map[string]string) {
	t.Helper()
	for volumes, want := range wantErrors {
		_, err := view.Resolve(volumesNamed(strings.Fields(volumes)...))
		f := fault.Of(err)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", volumes, err)
		case want != "" && (err == nil || f.Code != fault.Unsupported || !strings.Contains(f.Msg, want) || f.Hint == ""):
			t.Errorf("%s: %v, want %q", volumes, err, want)
		}
	}
}
