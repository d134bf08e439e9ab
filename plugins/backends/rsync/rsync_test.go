package rsync_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/plugins/backends/rsync"
)

// world is a place, a tree to store and the backend.
type world struct {
	backup.Backend
	config backup.Config
	tree   backup.Tree
}

var instant = time.Date(2026, 11, 23, 20, 0, 0, 123456789, time.UTC)

func newWorld(t *testing.T) *world {
	t.Helper()
	root := filepath.Join(t.TempDir(), "dat")
	must(t, os.MkdirAll(filepath.Join(root, "sub"), 0o750))
	must(t, os.WriteFile(filepath.Join(root, "file"), []byte(strings.Repeat("rewind\n", 100000)), 0o640))
	must(t, os.Link(filepath.Join(root, "file"), filepath.Join(root, "sub", "link")))
	must(t, os.Chown(filepath.Join(root, "file"), 12345, 54321))
	must(t, unix.Lsetxattr(filepath.Join(root, "file"), "user.rewind", []byte("x"), 0))
	return &world{
		rsync.New(),
		backup.Config{Options: map[string]any{"path": t.TempDir()}, Scratch: t.TempDir()},
		backup.Tree{Host: "db1", Set: "snap", Time: instant, Roots: []string{root}},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ignore(backup.Progress) {}

func (w *world) path() string { return w.config.Options["path"].(string) }

func (w *world) store(t *testing.T) backup.Stored {
	t.Helper()
	stored, err := w.Store(t.Context(), w.config, w.tree, ignore)
	if err != nil {
		t.Fatalf("%v\n%v", err, fault.Of(err).Facts)
	}
	return stored
}

// presents compares what is presented with the source by rsync itself, with other options than the backend's.
func (w *world) presents(t *testing.T, id string) {
	t.Helper()
	err := w.Present(t.Context(), w.config, id, ignore, func(_ context.Context, p backup.Presented) error {
		out, err := exec.Command("rsync", "-aHAXnci", "--delete", w.tree.Roots[0]+"/", p.Roots[w.tree.Roots[0]]+"/").CombinedOutput()
		if len(out) > 0 {
			t.Errorf("it differs:\n%s", out)
		}
		return err
	})
	must(t, err)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("%s holds %v", dir, entries)
	}
}

// TestLayout is what a person finds who has nothing but the directory.
func TestLayout(t *testing.T) {
	w := newWorld(t)
	stored := w.store(t)
	if stored.ID != "20261123T200000Z.db1" || stored.Files != 2 || stored.Bytes != 1400000 {
		t.Errorf("%+v", stored)
	}
	dir := filepath.Join(w.path(), "db1", "20261123T200000Z")
	for _, path := range []string{dir + ".json", filepath.Join(dir, w.tree.Roots[0], "file")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	w.presents(t, stored.ID)
}

// Until all of it is on the disk, the disk may take minutes: that is told.
func TestWritingOutIsTold(t *testing.T) {
	w := newWorld(t)
	var labels []string
	_, err := w.Store(t.Context(), w.config, w.tree, func(p backup.Progress) { labels = append(labels, p.Label) })
	must(t, err)
	if len(labels) == 0 || labels[len(labels)-1] != "writing out" {
		t.Errorf("told: %q", labels)
	}
}

// A root below a symbolic link is stored under the name it has, and as the directory it is.
func TestRootBelowALink(t *testing.T) {
	w := newWorld(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(filepath.Dir(w.tree.Roots[0]), link))
	w.tree.Roots[0] = filepath.Join(link, "dat")
	w.presents(t, w.store(t).ID)
}

func TestUnchangedFilesAreLinks(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	w.tree.Time = instant.Add(time.Hour)
	changed := filepath.Join(w.tree.Roots[0], "changed")
	must(t, os.WriteFile(changed, []byte("new"), 0o600))
	again := w.store(t)
	if again.Added != 3 {
		t.Errorf("added %d bytes, want the 3 that are new", again.Added)
	}
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(w.path(), "db1", name, w.tree.Roots[0], "file"), &st))
		return st
	}
	if a, b := stat("20261123T200000Z"), stat("20261123T210000Z"); a.Ino != b.Ino {
		t.Error("an unchanged file was copied")
	}
	w.presents(t, again.ID)
}

// A backup that was made while the clock ran ahead is not the one that the next is linked to.
func TestBackupOfTheFuture(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.tree.Roots[0], "file")
	before, err := os.ReadFile(file)
	must(t, err)
	w.store(t)
	must(t, os.WriteFile(file, []byte("other"), 0o640))
	w.tree.Time = instant.Add(1000 * time.Hour)
	w.store(t)
	must(t, os.WriteFile(file, before, 0o640))
	w.tree.Time = instant.Add(time.Hour)
	w.store(t)
	w.tree.Time = instant.Add(2 * time.Hour)
	if last := w.store(t); last.Added != 0 {
		t.Errorf("nothing had changed since the last backup, and %d bytes were added to it", last.Added)
	}
}

// A link in the place of a root, or of a directory above it, leads to the host's own tree. A restore would take that
// for the backup, and the next backup would share its files.
func TestNoSymbolicLinkIsFollowed(t *testing.T) {
	for _, below := range []string{"root", "above the root", "tree", "host"} {
		t.Run(below, func(t *testing.T) {
			w := newWorld(t)
			stored := w.store(t)
			link := filepath.Join(w.path(), "db1")
			switch below {
			case "tree":
				link = filepath.Join(link, "20261123T200000Z")
			case "root":
				link = filepath.Join(link, "20261123T200000Z", w.tree.Roots[0])
			case "above the root":
				link = filepath.Join(link, "20261123T200000Z", filepath.Dir(w.tree.Roots[0]))
			}
			must(t, os.Rename(link, link+"-was"))
			to := link + "-was"
			if below == "root" || below == "above the root" {
				to = strings.TrimPrefix(link, filepath.Join(w.path(), "db1", "20261123T200000Z"))
			}
			must(t, os.Symlink(to, link))
			err := w.Present(t.Context(), w.config, stored.ID, ignore, func(_ context.Context, p backup.Presented) error {
				t.Errorf("presented %v", p.Roots)
				return nil
			})
			if f := fault.Of(err); f == nil || f.Code != fault.BackendFailed || !strings.Contains(f.Msg, "symbolic link") {
				t.Errorf("Present: %v", err)
			}
			w.tree.Time = instant.Add(time.Hour)
			if below == "host" {
				w.config.Host = "db1"
				_, err := w.Check(t.Context(), w.config)
				if f := fault.Of(err); f == nil || f.Code != fault.BackendFailed || !strings.Contains(f.Msg, "symbolic link") {
					t.Errorf("Check: %v", err)
				}
				return
			}
			w.store(t)
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(w.tree.Roots[0], "file"), &st))
			if st.Nlink != 2 { // "file" and "sub/link"
				t.Errorf("the host's own file has %d names: the backup is one of them", st.Nlink)
			}
		})
	}
}

// A file changed in the second of the last backup, with its size unchanged, has changed.
func TestChangeWithinTheSecond(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.tree.Roots[0], "sub", "same")
	at := time.Unix(1700000000, 1)
	must(t, os.WriteFile(file, []byte("old"), 0o600))
	must(t, os.Chtimes(file, at, at))
	w.store(t)
	must(t, os.WriteFile(file, []byte("new"), 0o600))
	must(t, os.Chtimes(file, at.Add(1), at.Add(1)))
	w.presents(t, w.store(t).ID)
}

func TestSameTimeTwice(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	if again := w.store(t); again.ID != "20261123T200000Z-2.db1" {
		t.Errorf("got %s", again.ID)
	}
}

// Forget removes a tree and its marker, and no other; not while a run of that host is alive.
func TestForget(t *testing.T) {
	w := newWorld(t)
	first := w.store(t).ID
	w.tree.Time = instant.Add(time.Hour)
	second := w.store(t).ID
	lock := flock.New(filepath.Join(w.path(), "db1", ".lock"))
	if got, err := lock.TryLock(); !got || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	if err := w.Forget(t.Context(), w.config, first); !errors.Is(err, fault.RepositoryLocked) {
		t.Errorf("while another run is alive: %v", err)
	}
	w.presents(t, first)
	must(t, lock.Close())
	must(t, w.Forget(t.Context(), w.config, first))
	left, err := filepath.Glob(filepath.Join(w.path(), "db1", "2*"))
	tree := filepath.Join(w.path(), "db1", "20261123T210000Z")
	if err != nil || !slices.Equal(left, []string{tree, tree + ".json"}) {
		t.Errorf("left %v, %v", left, err)
	}
	w.presents(t, second)
	if err := w.Forget(t.Context(), w.config, first); !errors.Is(err, fault.NotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
	if got, err := lock.TryLock(); !got || err != nil {
		t.Errorf("it still holds the lock: %v, %v", got, err)
	}
	must(t, lock.Close())
}

// A backup that is read is not removed, and one that is being removed is not read.
func TestReadBackupIsNotForgotten(t *testing.T) {
	w := newWorld(t)
	id := w.store(t).ID
	used := false
	use := func(context.Context, backup.Presented) error {
		used = true
		if err := w.Forget(t.Context(), w.config, id); !errors.Is(err, fault.RepositoryLocked) || fault.Of(err).Hint == "" {
			t.Errorf("got %v", err)
		}
		return nil
	}
	must(t, w.Present(t.Context(), w.config, id, ignore, use))
	if !used {
		t.Fatal("it was not presented")
	}
	w.presents(t, id)
	marker, err := os.Open(filepath.Join(w.path(), "db1", "20261123T200000Z.json"))
	must(t, err)
	defer marker.Close()
	must(t, unix.Flock(int(marker.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if err := w.Present(t.Context(), w.config, id, ignore, use); !errors.Is(err, fault.RepositoryLocked) {
		t.Errorf("got %v", err)
	}
	must(t, marker.Close())
	must(t, w.Forget(t.Context(), w.config, id))
}

// What a killed run left may be large: a Store that removes it says that it works, and ends when it is asked to.
func TestRemovalReportsAndEnds(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	half := filepath.Join(w.path(), "db1", "20261123T190000Z")
	for _, name := range []string{"a", "b", "c"} {
		must(t, os.MkdirAll(filepath.Join(half, name, name), 0o700))
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.Store(ctx, w.config, w.tree, func(p backup.Progress) {
		if p.Label == "removing 20261123T190000Z" {
			cancel()
		}
	})
	if !errors.Is(err, fault.Interrupted) {
		t.Fatalf("got %v", err)
	}
	if left, err := os.ReadDir(half); err != nil || len(left) == 0 {
		t.Errorf("it went on: %v, %v", left, err)
	}
	must(t, w.Settle(t.Context(), w.config))
	if _, err := os.Stat(half); err == nil {
		t.Error("Settle left it")
	}
}

func TestFakeSuper(t *testing.T) {
	w := newWorld(t)
	w.config.Options["fake_super"] = true
	w.config.Options["scratch"] = t.TempDir()
	stored := w.store(t)
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(w.path(), "db1/20261123T200000Z", w.tree.Roots[0], "file"), &st))
	if st.Uid != 0 {
		t.Errorf("the file there belongs to %d: fake_super is not on", st.Uid)
	}
	w.presents(t, stored.ID)
}

func TestLocked(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	half := filepath.Join(w.path(), "db1", "20261123T190000Z")
	must(t, os.Mkdir(half, 0o700))
	lock := flock.New(filepath.Join(w.path(), "db1", ".lock"))
	if got, err := lock.TryLock(); !got || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	_, err := w.Store(t.Context(), w.config, w.tree, ignore)
	if !errors.Is(err, fault.RepositoryLocked) {
		t.Errorf("got %v", err)
	}
	must(t, w.Settle(t.Context(), w.config))
	if _, err := os.Stat(half); err != nil {
		t.Errorf("Settle took the tree of a run that is alive: %v", err)
	}
	must(t, lock.Close())
	must(t, w.Settle(t.Context(), w.config))
	if _, err := os.Stat(half); err == nil {
		t.Error("Settle left the tree of a run that is dead")
	}
}

func TestFull(t *testing.T) {
	w := newWorld(t)
	small := t.TempDir()
	must(t, unix.Mount("none", small, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { must(t, unix.Unmount(small, 0)) })
	w.config.Options["path"] = small
	w.store(t)
	must(t, os.WriteFile(filepath.Join(w.tree.Roots[0], "large"), []byte(strings.Repeat("x", 8<<20)), 0o600))
	_, err := w.Store(t.Context(), w.config, w.tree, ignore)
	if f := fault.Of(err); f == nil || f.Code != fault.RepositoryFull || f.Hint == "" {
		t.Errorf("got %v", err)
	}
	if list, err := w.List(t.Context(), w.config, ""); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if left, _ := filepath.Glob(filepath.Join(small, "db1", "2*")); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

func TestBadOptions(t *testing.T) {
	c := backup.Config{Options: map[string]any{
		"path": "relative", "scratch": "/nowhere", "ssh_key": "/a b", "known_hosts": "/nowhere", "ssh_port": 70000,
	}}
	_, err := rsync.New().Describe(t.Context(), c)
	f := fault.Of(err)
	if f == nil || f.Code != fault.BadArguments {
		t.Fatalf("got %v", err)
	}
	for name := range c.Options {
		if !strings.Contains(f.Msg, name+": ") {
			t.Errorf("%s is not named: %s", name, f.Msg)
		}
	}
	for _, path := range []string{"", "host:relative", "-oProxyCommand=x:/y", "rsync://host/x", "host::module/x", "a b:/x", "u@-h:/x"} {
		c := backup.Config{Options: map[string]any{"path": path}}
		if _, err := rsync.New().Describe(t.Context(), c); !errors.Is(err, fault.BadArguments) {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, path := range []string{"/srv", "host:/srv", "user@host.example.com:/srv/x y", "root@[::1]:/srv"} {
		c := backup.Config{Options: map[string]any{"path": path}}
		if _, err := rsync.New().Describe(t.Context(), c); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestBadHost(t *testing.T) {
	w := newWorld(t)
	for _, host := range []string{"", "..", "a/b", ".hidden", "-x", "*"} {
		w.tree.Host = host
		if _, err := w.Store(t.Context(), w.config, w.tree, ignore); !errors.Is(err, fault.BadArguments) {
			t.Errorf("%q: %v", host, err)
		}
	}
	empty(t, w.path())
}
