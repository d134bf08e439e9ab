package mirror

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// do fails the test at an error that is not what it is about.
func do(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// desk is a repository and a directory to be stored.
type desk struct {
	*testing.T
	config backup.Config
	path   string // of the repository
	root   string // what is stored
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t, path: t.TempDir(), root: filepath.Join(t.TempDir(), "dat")}
	d.config = backup.Config{Options: map[string]any{"path": d.path}, Scratch: t.TempDir()}
	do(t, os.Mkdir(d.root, 0o755))
	return d
}

func (d *desk) write(name, content string) {
	d.Helper()
	do(d, os.WriteFile(filepath.Join(d.root, name), []byte(content), 0o644))
}

// try stores the root as it was n minutes after noon.
func (d *desk) try(n int) (backup.Stored, error) {
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Date(2026, 1, 2, 12, n, 0, 5000, time.UTC), Roots: []string{d.root}}
	return New().Store(d.Context(), d.config, tree, ignore)
}

func (d *desk) store(n int) backup.Stored {
	d.Helper()
	stored, err := d.try(n)
	do(d, err)
	return stored
}

// ids are those of the backups, the newest first.
func (d *desk) ids() []string {
	d.Helper()
	all, err := New().List(d.Context(), d.config, "")
	do(d, err)
	ids := []string{}
	for _, b := range all {
		ids = append(ids, b.ID)
	}
	return ids
}

// present hands the root of a backup to use.
func (d *desk) present(id string, use func(dir string)) {
	d.Helper()
	do(d, New().Present(d.Context(), d.config, id, ignore, func(_ context.Context, p backup.Presented) error {
		use(p.Roots[d.root])
		return nil
	}))
}

func (d *desk) inode(path string) uint64 {
	d.Helper()
	var st unix.Stat_t
	do(d, unix.Lstat(path, &st))
	return st.Ino
}

// entries are what is in the host's directory.
func (d *desk) entries() []string {
	d.Helper()
	all, err := os.ReadDir(filepath.Join(d.path, "web"))
	do(d, err)
	names := []string{}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func wantCode(t *testing.T, err error, code fault.Code, words string) {
	t.Helper()
	if err == nil || fault.Of(err).Code != code || !strings.Contains(err.Error(), words) {
		t.Errorf("got %v, want code %s and %q", err, code, words)
	}
}

func TestUnchangedFilesAreShared(t *testing.T) {
	d := newDesk(t)
	d.write("same", "content")
	d.write("other", "content")
	first := d.store(0)
	d.write("other", "changed")
	second := d.store(1)
	at := func(b backup.Stored, name string) uint64 {
		return d.inode(filepath.Join(d.path, "web", b.ID, d.root, name))
	}
	if at(first, "same") != at(second, "same") || at(first, "other") == at(second, "other") {
		t.Error("what is the same is to be shared, and nothing else")
	}
	if second.Added != int64(len("changed")) || second.Files != 2 {
		t.Errorf("%+v", second)
	}
	d.present(first.ID, func(dir string) {
		if data, err := os.ReadFile(filepath.Join(dir, "other")); err != nil || string(data) != "content" {
			t.Errorf("the first backup holds %q, %v", data, err)
		}
	})
}

// While the clock ran ahead a backup was made. It does not say what has changed since: a file that keeps its size and
// time is read. And as soon as there is another, that one is what files are linked to.
func TestBackupOfTheFuture(t *testing.T) {
	const year = 365 * 24 * 60
	d := newDesk(t)
	d.write("same", "content")
	d.write("file", "before")
	ahead := d.store(10 * year)
	info, err := os.Stat(filepath.Join(d.root, "file"))
	do(t, err)
	d.write("file", "after!")
	do(t, os.Chtimes(filepath.Join(d.root, "file"), info.ModTime(), info.ModTime()))
	first, second := d.store(0), d.store(1)
	at := func(b backup.Stored, name string) string { return filepath.Join(d.path, "web", b.ID, d.root, name) }
	if data, err := os.ReadFile(at(first, "file")); err != nil || string(data) != "after!" {
		t.Errorf("after a backup of the future, %q was stored (%v)", data, err)
	}
	if d.inode(at(ahead, "same")) != d.inode(at(first, "same")) {
		t.Error("what is the same is not shared with the only backup that there is")
	}
	if d.inode(at(first, "file")) != d.inode(at(second, "file")) {
		t.Error("the backup of the future is linked to, and not the last one")
	}
}

// A damaged predecessor is nothing to build on, and no reason not to store.
func TestLastBackupDamaged(t *testing.T) {
	d := newDesk(t)
	d.write("file", "content")
	first := d.store(0)
	do(t, os.RemoveAll(filepath.Join(d.path, "web", first.ID)))
	second := d.store(1)
	d.present(second.ID, func(dir string) {
		if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "content" {
			t.Errorf("%q, %v", data, err)
		}
	})
}

func TestOneRunAtATime(t *testing.T) {
	d := newDesk(t)
	stored := d.store(0)
	unlock, err := shelf{host: "web", dir: filepath.Join(d.path, "web")}.lock()
	do(t, err)
	_, err = d.try(1)
	wantCode(t, err, fault.RepositoryLocked, "web")
	wantCode(t, New().Forget(t.Context(), d.config, stored.ID), fault.RepositoryLocked, "web")

	left := filepath.Join(d.path, "web", "20260102T120500Z-web.partial")
	do(t, os.MkdirAll(left+"/dat", 0o700), New().Settle(t.Context(), d.config))
	if _, err := os.Stat(left); err != nil {
		t.Errorf("Settle took what belongs to a run that is alive: %v", err)
	}
	unlock()
	do(t, New().Settle(t.Context(), d.config))
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("half a backup is left: %v", err)
	}
	if got := d.ids(); !cmp.Equal(got, []string{stored.ID}) {
		t.Errorf("listed %q", got)
	}
}

// Check looks at the lock of this host only.
func TestCheckSaysLocked(t *testing.T) {
	d := newDesk(t)
	own, err := os.Hostname()
	do(t, err)
	for _, host := range []string{own, "another-" + own} {
		dir := filepath.Join(d.path, host)
		do(t, os.Mkdir(dir, 0o700))
		unlock, err := shelf{host: host, dir: dir}.lock()
		do(t, err)
		_, err = New().Check(t.Context(), d.config)
		if locked := isLocked(err); locked != (host == own) {
			t.Errorf("%s is locked: %v", host, err)
		}
		unlock()
	}
	if entries, err := os.ReadDir(d.path); err != nil || len(entries) != 2 {
		t.Errorf("Check left something: %v, %v", entries, err)
	}
}

// What was left at any point of a killed run goes, and what is complete or not ours stays.
func TestSettle(t *testing.T) {
	d := newDesk(t)
	stored := d.store(0)
	at := func(name string) string { return filepath.Join(d.path, "web", name) }
	do(t, os.MkdirAll(at("20260102T120500Z-web.partial/dat/x"), 0o700), // killed while it stored
		os.MkdirAll(at("20260102T120600Z.2-web/dat"), 0o700), // killed before it was recorded, or while it was forgotten
		os.MkdirAll(at("lost+found"), 0o700), os.WriteFile(at("notes.txt"), nil, 0o600))
	want := []string{".lock", stored.ID, stored.ID + ".json", "lost+found", "notes.txt"}
	do(t, New().Settle(t.Context(), d.config))
	if got := d.entries(); !cmp.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
}

func TestFullRepository(t *testing.T) {
	d := newDesk(t)
	do(t, unix.Mount("tmpfs", d.path, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { do(t, unix.Unmount(d.path, 0)) })
	d.write("small", "content")
	first := d.store(0)
	d.write("large", strings.Repeat("x", 2<<20))
	_, err := d.try(1)
	wantCode(t, err, fault.RepositoryFull, "no space left on device")
	if want := []string{".lock", first.ID, first.ID + ".json"}; !cmp.Equal(d.entries(), want) {
		t.Errorf("there is %q, want %q", d.entries(), want)
	}
	do(t, os.Remove(filepath.Join(d.root, "large")))
	d.store(2)
}

func TestReadBackupIsNotForgotten(t *testing.T) {
	d := newDesk(t)
	d.write("file", "content")
	first := d.store(0)
	d.present(first.ID, func(dir string) {
		wantCode(t, New().Forget(t.Context(), d.config, first.ID), fault.RepositoryLocked, first.ID)
		d.present(first.ID, func(string) {}) // others may read it, too
		if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "content" {
			t.Errorf("%q, %v", data, err)
		}
	})
	do(t, New().Forget(t.Context(), d.config, first.ID))
	if got := d.ids(); len(got) > 0 {
		t.Errorf("listed %q", got)
	}
	if got := d.entries(); len(got) != 1 { // the lock
		t.Errorf("there is %q", got)
	}
}

func TestRecordOfAnother(t *testing.T) {
	d := newDesk(t)
	stored := d.store(0)
	record := filepath.Join(d.path, "web", stored.ID+".json")
	data, err := os.ReadFile(record)
	do(t, err)
	for _, change := range [][2]string{{stored.ID, "20200101T000000Z-web"}, {`"web"`, `"mail"`}, {`"/`, `"/../`}, {"{", ""}} {
		do(t, os.WriteFile(record, []byte(strings.Replace(string(data), change[0], change[1], 1)), 0o600))
		_, err := New().List(t.Context(), d.config, "")
		wantCode(t, err, fault.BackendFailed, record)
	}
}

// A backup that somebody has tampered with leads nowhere else.
// A link in the place of a backup, or of the directory of a host, leads to what is none of the repository's.
func TestNothingIsRemovedThroughASymbolicLink(t *testing.T) {
	d := newDesk(t)
	outside := t.TempDir()
	do(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o600))
	stored := d.store(0)
	dir := filepath.Join(d.path, "web", stored.ID)
	do(t, os.RemoveAll(dir), os.Symlink(outside, dir))
	err := New().Forget(t.Context(), d.config, stored.ID)
	if _, gone := os.Stat(filepath.Join(outside, "file")); gone != nil {
		t.Errorf("Forget (%v) emptied a directory that a link led to: %v", err, gone)
	}
	do(t, err)
	if left := d.entries(); !slices.Equal(left, []string{".lock"}) {
		t.Errorf("left: %v", left)
	}
	do(t, os.RemoveAll(filepath.Join(d.path, "web")), os.Symlink(outside, filepath.Join(d.path, "web")))
	_, err = d.try(1)
	wantCode(t, err, fault.BackendFailed, filepath.Join(d.path, "web")+" is a symbolic link")
	d.config.Host = "web"
	_, err = New().Check(t.Context(), d.config)
	wantCode(t, err, fault.BackendFailed, filepath.Join(d.path, "web")+" is a symbolic link")
}

func TestPresentedThroughNoSymbolicLink(t *testing.T) {
	for _, below := range []string{"", "root", "above the root"} {
		t.Run(below, func(t *testing.T) {
			d := newDesk(t)
			stored := d.store(0)
			link := filepath.Join(d.path, "web", stored.ID)
			switch below {
			case "root":
				link += d.root
			case "above the root":
				link += filepath.Dir(d.root)
			}
			do(t, os.RemoveAll(link), os.Symlink("/", link))
			err := New().Present(t.Context(), d.config, stored.ID, ignore, func(_ context.Context, p backup.Presented) error {
				return fmt.Errorf("presented %v", p.Roots)
			})
			wantCode(t, err, fault.BackendFailed, "through a symbolic link")
		})
	}
}

// The whole tree lies on the disk before it is listed.
func TestCancelledWhileItIsWrittenOut(t *testing.T) {
	d := newDesk(t)
	d.write("file", strings.Repeat("x", 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	tree := backup.Tree{Host: "web", Time: time.Unix(0, 0), Roots: []string{d.root}}
	_, err := New().Store(ctx, d.config, tree, func(p backup.Progress) {
		if p.Done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := d.ids(); len(got) > 0 {
		t.Errorf("listed %q", got)
	}
	d.store(1)
	if got := d.entries(); len(got) != 3 {
		t.Errorf("there is %q", got)
	}
}

// What people keep beside the backups, under names that resemble theirs, is not what a killed run left.
func TestOnlyOwnLeftoversAreRemoved(t *testing.T) {
	d := newDesk(t)
	d.store(0)
	dir := filepath.Join(d.path, "web")
	kept := []string{"20261123T200000Z-web.keep", "20261123T200000Z-db", "20261123T200000Z.x-web", "20261123T200000Z"}
	gone := []string{"20261123T200000Z-web", "20261123T200000Z.2-web.partial"}
	for _, name := range slices.Concat(kept, gone) {
		do(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	d.store(1)
	for _, name := range kept {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range gone {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}
