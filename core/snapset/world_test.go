package snapset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

const mib = 1 << 20

// world is a server with the volumes of a fake LVM, of which some are mounted.
type world struct {
	*lvmtest.Fake
	t      *testing.T
	lvm    *lvm.LVM
	mounts []filesystem.Mount

	journal string // the directory that holds the journal
}

func newWorld(t *testing.T, groups ...lvmtest.Group) *world {
	t.Helper()
	lvmDir, stateDir = t.TempDir(), t.TempDir()
	t.Cleanup(func() { lvmDir, stateDir = "/etc/lvm", journey.State })
	f := lvmtest.New(groups...)
	return &world{Fake: f, t: t, lvm: f.LVM()}
}

func (w *world) report() *lvm.Report {
	w.t.Helper()
	r, err := w.lvm.Report(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// mount says that a volume is mounted.
func (w *world) mount(name, point, fstype string) {
	w.t.Helper()
	v, ok := w.report().ByPath(name)
	if !ok {
		w.t.Fatalf("no volume %s", name)
	}
	w.mounts = append(w.mounts, filesystem.Mount{
		ID: len(w.mounts) + 1, Dev: devOf(v), Root: "/", Point: point, Type: fstype, Source: v.Path, Options: "rw",
	})
	w.SetOpen(name, 1)
}

func (w *world) view() *View {
	w.t.Helper()
	return &View{Report: w.report(), Mounts: w.mounts, Sysfs: w.sysfs(), Device: BlockDevice, Journal: w.journal}
}

// sysfs is a /sys/dev/block with the fake's volumes, none of which lies on another, and a disk.
func (w *world) sysfs() string {
	w.t.Helper()
	dir := w.t.TempDir()
	device := func(dev filesystem.Dev, files map[string]string) {
		files["dev"] = dev.String()
		for file, text := range files {
			path := filepath.Join(dir, "dev/block", dev.String(), file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	device(filesystem.Dev{Major: 8, Minor: 1}, map[string]string{})
	for _, g := range w.report().Groups {
		for i := range g.Volumes {
			v := &g.Volumes[i]
			device(devOf(v), map[string]string{"dm/uuid": "LVM-" + v.UUID, "dm/name": v.DMName})
		}
	}
	return dir
}

func words(names ...string) []Volume {
	var out []Volume
	for _, name := range names {
		out = append(out, Volume{Name: name})
	}
	return out
}

// plan plans a set of these volumes.
func (w *world) plan(want Want) (*Plan, error) {
	w.t.Helper()
	view := w.view()
	targets, err := view.Resolve(want.Volumes)
	if err != nil {
		return nil, err
	}
	return view.New(want, "id-1", targets)
}

func (w *world) mustPlan(want Want) *Plan {
	w.t.Helper()
	p, err := w.plan(want)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// untouched fails if anything of a set is left: a snapshot, a suspended volume.
func (w *world) untouched(origins ...string) {
	w.t.Helper()
	for _, g := range w.report().Groups {
		for i := range g.Volumes {
			v := &g.Volumes[i]
			if _, of := v.Tag(tagSet); of {
				w.t.Errorf("%s was left behind", v.FullName())
			}
		}
	}
	for _, name := range origins {
		if w.Suspended(name) {
			w.t.Errorf("%s was left suspended", name)
		}
		if table, prepared := w.Mapped(name); table != "" || prepared {
			w.t.Errorf("%s was left with the table %q, with a prepared one: %v", name, table, prepared)
		}
	}
}

// expect fails unless err has the code and says all of these words.
func expect(t *testing.T, err error, code fault.Code, words ...string) {
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

// noFstab has the test see no fstab.
func noFstab(t *testing.T) {
	fstabFile = t.TempDir() + "/none"
	t.Cleanup(func() { fstabFile = "/etc/fstab" })
}

// resolves fails the test unless each list of volumes resolves, or is unsupported and its message says that.
func resolves(t *testing.T, view *View, cases map[string]string) {
	t.Helper()
	for volumes, says := range cases {
		_, err := view.Resolve(words(strings.Fields(volumes)...))
		f := fault.Of(err)
		switch {
		case says == "" && err != nil:
			t.Errorf("%s: %v", volumes, err)
		case says != "" && (err == nil || f.Code != fault.Unsupported || !strings.Contains(f.Msg, says) || f.Hint == ""):
			t.Errorf("%s: %v, want %q", volumes, err, says)
		}
	}
}
