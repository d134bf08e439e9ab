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

// fixture is the backend with a place and a tree to store.
type fixture struct {
	backup.Backend
	config backup.Config
	tree   backup.Tree
}

var instant = time.Date(2026, 11, 23, 20, 0, 0, 123456789, time.UTC)

func newFixture(t *testing.T) *fixture {
	t.Helper()
	root := filepath.Join(t.TempDir(), "dat")
	must(t, os.MkdirAll(filepath.Join(root, "sub"), 0o750))
	must(t, os.WriteFile(filepath.Join(root, "file"), []byte(strings.Repeat("rewind\n", 100000)), 0o640))
	must(t, os.Link(filepath.Join(root, "file"), filepath.Join(root, "sub", "link")))
	must(t, os.Chown(filepath.Join(root, "file"), 12345, 54321))
	must(t, unix.Lsetxattr(filepath.Join(root, "file"), "user.rewind", []byte("x"), 0))
	return &fixture{
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

func ignoreProgress(backup.Progress) {}

func (fx *fixture) path() string { return fx.config.Options["path"].(string) }

func (fx *fixture) store(t *testing.T) backup.Stored {
	t.Helper()
	stored, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	if err != nil {
		t.Fatalf("%v\n%v", err, fault.Of(err).Facts)
	}
	return stored
}

// verifyPresented compares the presented backup with the source. It uses rsync with other options than the backend
// does.
func (fx *fixture) verifyPresented(t *testing.T, id string) {
	t.Helper()
	err := fx.Present(t.Context(), fx.config, id, ignoreProgress, func(_ context.Context, p backup.Presented) error {
		out, err := exec.Command("rsync", "-aHAXnci", "--delete", fx.tree.Roots[0]+"/",
			p.Roots[fx.tree.Roots[0]]+"/").CombinedOutput()
		if len(out) > 0 {
			t.Errorf("it differs:\n%s", out)
		}
		return err
	})
	must(t, err)
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("%s holds %v", dir, entries)
	}
}

// A person who has nothing but the directory finds the backup's files in it.
func TestLayoutOnDisk(t *testing.T) {
	fx := newFixture(t)
	stored := fx.store(t)
	if stored.ID != "20261123T200000Z.db1" || stored.Files != 2 || stored.Bytes != 1400000 {
		t.Errorf("%+v", stored)
	}
	dir := filepath.Join(fx.path(), "db1", "20261123T200000Z")
	for _, path := range []string{dir + ".json", filepath.Join(dir, fx.tree.Roots[0], "file")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	fx.verifyPresented(t, stored.ID)
}

// The disk may take minutes to write everything out, and that is reported as progress.
func TestWritingOutIsReported(t *testing.T) {
	fx := newFixture(t)
	var labels []string
	_, err := fx.Store(t.Context(), fx.config, fx.tree, func(p backup.Progress) { labels = append(labels, p.Label) })
	must(t, err)
	if len(labels) == 0 || labels[len(labels)-1] != "writing out" {
		t.Errorf("reported: %q", labels)
	}
}

// A root whose path contains a symbolic link is stored under that path, as a directory.
func TestRootBelowSymbolicLink(t *testing.T) {
	fx := newFixture(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(filepath.Dir(fx.tree.Roots[0]), link))
	fx.tree.Roots[0] = filepath.Join(link, "dat")
	fx.verifyPresented(t, fx.store(t).ID)
}

func TestUnchangedFilesAreHardLinks(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	fx.tree.Time = instant.Add(time.Hour)
	changed := filepath.Join(fx.tree.Roots[0], "changed")
	must(t, os.WriteFile(changed, []byte("new"), 0o600))
	again := fx.store(t)
	if again.Added != 3 {
		t.Errorf("added %d bytes, want the 3 new ones", again.Added)
	}
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(fx.path(), "db1", name, fx.tree.Roots[0], "file"), &st))
		return st
	}
	if a, b := stat("20261123T200000Z"), stat("20261123T210000Z"); a.Ino != b.Ino {
		t.Error("an unchanged file was copied")
	}
	fx.verifyPresented(t, again.ID)
}

// A backup was made while the clock was fast, so it is dated in the future. The next but one is linked to the backup
// after it, and not to it.
func TestBackupDatedInFutureIsNotLinkedTo(t *testing.T) {
	fx := newFixture(t)
	file := filepath.Join(fx.tree.Roots[0], "file")
	before, err := os.ReadFile(file)
	must(t, err)
	fx.store(t)
	must(t, os.WriteFile(file, []byte("other"), 0o640))
	fx.tree.Time = instant.Add(1000 * time.Hour)
	fx.store(t)
	must(t, os.WriteFile(file, before, 0o640))
	fx.tree.Time = instant.Add(time.Hour)
	fx.store(t)
	fx.tree.Time = instant.Add(2 * time.Hour)
	if last := fx.store(t); last.Added != 0 {
		t.Errorf("nothing had changed since the last backup, and %d bytes were added to it", last.Added)
	}
}

// If somebody has put a symbolic link in the place of a root, or of a directory above it, the link may lead to the
// host's own files. A restore would take these for the backup, and the next backup would make hard links to them.
func TestNoSymbolicLinkIsFollowed(t *testing.T) {
	for _, below := range []string{"root", "above the root", "tree", "host"} {
		t.Run(below, func(t *testing.T) {
			fx := newFixture(t)
			stored := fx.store(t)
			link := filepath.Join(fx.path(), "db1")
			switch below {
			case "tree":
				link = filepath.Join(link, "20261123T200000Z")
			case "root":
				link = filepath.Join(link, "20261123T200000Z", fx.tree.Roots[0])
			case "above the root":
				link = filepath.Join(link, "20261123T200000Z", filepath.Dir(fx.tree.Roots[0]))
			}
			must(t, os.Rename(link, link+"-moved"))
			to := link + "-moved"
			if below == "root" || below == "above the root" {
				to = strings.TrimPrefix(link, filepath.Join(fx.path(), "db1", "20261123T200000Z"))
			}
			must(t, os.Symlink(to, link))
			err := fx.Present(t.Context(), fx.config, stored.ID, ignoreProgress,
				func(_ context.Context, p backup.Presented) error {
					t.Errorf("presented %v", p.Roots)
					return nil
				})
			if f := fault.Of(err); f == nil || f.Code != fault.BackendFailed || !strings.Contains(f.Msg, "symbolic link") {
				t.Errorf("Present: %v", err)
			}
			fx.tree.Time = instant.Add(time.Hour)
			if below == "host" {
				fx.config.Host = "db1"
				_, err := fx.Check(t.Context(), fx.config)
				if f := fault.Of(err); f == nil || f.Code != fault.BackendFailed || !strings.Contains(f.Msg, "symbolic link") {
					t.Errorf("Check: %v", err)
				}
				return
			}
			fx.store(t)
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(fx.tree.Roots[0], "file"), &st))
			if st.Nlink != 2 { // "file" and "sub/link"
				t.Errorf("the host's own file has %d links: one of them is in the backup", st.Nlink)
			}
		})
	}
}

// A file is stored again if it was changed in the same second as before, and kept its size.
func TestChangeWithinOneSecondIsFound(t *testing.T) {
	fx := newFixture(t)
	file := filepath.Join(fx.tree.Roots[0], "sub", "same")
	at := time.Unix(1700000000, 1)
	must(t, os.WriteFile(file, []byte("old"), 0o600))
	must(t, os.Chtimes(file, at, at))
	fx.store(t)
	must(t, os.WriteFile(file, []byte("new"), 0o600))
	must(t, os.Chtimes(file, at.Add(1), at.Add(1)))
	fx.verifyPresented(t, fx.store(t).ID)
}

func TestSameTimeGetsAnotherID(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	if again := fx.store(t); again.ID != "20261123T200000Z-2.db1" {
		t.Errorf("got %s", again.ID)
	}
}

// Forget removes only the backup's tree and marker, and fails while another run holds the host's lock.
func TestForgetRemovesTreeAndMarker(t *testing.T) {
	fx := newFixture(t)
	first := fx.store(t).ID
	fx.tree.Time = instant.Add(time.Hour)
	second := fx.store(t).ID
	lock := flock.New(filepath.Join(fx.path(), "db1", ".lock"))
	if got, err := lock.TryLock(); !got || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	if err := fx.Forget(t.Context(), fx.config, first); !errors.Is(err, fault.RepositoryLocked) {
		t.Errorf("while another run is alive: %v", err)
	}
	fx.verifyPresented(t, first)
	must(t, lock.Close())
	must(t, fx.Forget(t.Context(), fx.config, first))
	left, err := filepath.Glob(filepath.Join(fx.path(), "db1", "2*"))
	tree := filepath.Join(fx.path(), "db1", "20261123T210000Z")
	if err != nil || !slices.Equal(left, []string{tree, tree + ".json"}) {
		t.Errorf("left %v, %v", left, err)
	}
	fx.verifyPresented(t, second)
	if err := fx.Forget(t.Context(), fx.config, first); !errors.Is(err, fault.NotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
	if got, err := lock.TryLock(); !got || err != nil {
		t.Errorf("Forget still holds the lock: %v, %v", got, err)
	}
	must(t, lock.Close())
}

// A backup cannot be removed while it is read, and cannot be read while it is being removed.
func TestForgetFailsWhileBackupIsRead(t *testing.T) {
	fx := newFixture(t)
	id := fx.store(t).ID
	used := false
	use := func(context.Context, backup.Presented) error {
		used = true
		if err := fx.Forget(t.Context(), fx.config, id); !errors.Is(err, fault.RepositoryLocked) || fault.Of(err).Hint == "" {
			t.Errorf("got %v", err)
		}
		return nil
	}
	must(t, fx.Present(t.Context(), fx.config, id, ignoreProgress, use))
	if !used {
		t.Fatal("it was not presented")
	}
	fx.verifyPresented(t, id)
	marker, err := os.Open(filepath.Join(fx.path(), "db1", "20261123T200000Z.json"))
	must(t, err)
	defer marker.Close()
	must(t, unix.Flock(int(marker.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if err := fx.Present(t.Context(), fx.config, id, ignoreProgress, use); !errors.Is(err, fault.RepositoryLocked) {
		t.Errorf("got %v", err)
	}
	must(t, marker.Close())
	must(t, fx.Forget(t.Context(), fx.config, id))
}

// What a killed run left may be large. A Store that removes it reports progress, and ends with its context.
func TestRemovalReportsProgressAndIsInterrupted(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	half := filepath.Join(fx.path(), "db1", "20261123T190000Z")
	for _, name := range []string{"a", "b", "c"} {
		must(t, os.MkdirAll(filepath.Join(half, name, name), 0o700))
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := fx.Store(ctx, fx.config, fx.tree, func(p backup.Progress) {
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
	must(t, fx.Settle(t.Context(), fx.config))
	if _, err := os.Stat(half); err == nil {
		t.Error("Settle left it")
	}
}

func TestFakeSuperKeepsOwners(t *testing.T) {
	fx := newFixture(t)
	fx.config.Options["fake_super"] = true
	fx.config.Options["scratch"] = t.TempDir()
	stored := fx.store(t)
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(fx.path(), "db1/20261123T200000Z", fx.tree.Roots[0], "file"), &st))
	if st.Uid != 0 {
		t.Errorf("the file there belongs to %d: fake_super is not on", st.Uid)
	}
	fx.verifyPresented(t, stored.ID)
}

// A Store waits for one of another run that began after its Check.
func TestStoreWaitsForAnother(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	lock := flock.New(filepath.Join(fx.path(), "db1", ".lock"))
	if got, err := lock.TryLock(); !got || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	waits := false
	_, err := fx.Store(t.Context(), fx.config, fx.tree, func(p backup.Progress) {
		if !waits && strings.HasPrefix(p.Label, "waiting: another run stores") {
			waits = true
			must(t, lock.Close())
		}
	})
	must(t, err)
	if !waits {
		t.Error("it does not say that it waits")
	}
}

func TestLockedHostIsRepositoryLocked(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	half := filepath.Join(fx.path(), "db1", "20261123T190000Z")
	must(t, os.Mkdir(half, 0o700))
	lock := flock.New(filepath.Join(fx.path(), "db1", ".lock"))
	if got, err := lock.TryLock(); !got || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	_, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	if !errors.Is(err, fault.RepositoryLocked) {
		t.Errorf("got %v", err)
	}
	for host, want := range map[string]bool{"db1": true, "db2": false} {
		c := fx.config
		c.Host = host
		if _, err := fx.Check(t.Context(), c); errors.Is(err, fault.RepositoryLocked) != want || !want && err != nil {
			t.Errorf("Check of %s: %v", host, err)
		}
	}
	must(t, fx.Settle(t.Context(), fx.config))
	if _, err := os.Stat(half); err != nil {
		t.Errorf("Settle removed the tree of a run that is alive: %v", err)
	}
	must(t, lock.Close())
	must(t, fx.Settle(t.Context(), fx.config))
	if _, err := os.Stat(half); err == nil {
		t.Error("Settle left the tree of a run that has ended")
	}
}

func TestFullFileSystemIsRepositoryFull(t *testing.T) {
	fx := newFixture(t)
	small := t.TempDir()
	must(t, unix.Mount("none", small, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { must(t, unix.Unmount(small, 0)) })
	fx.config.Options["path"] = small
	fx.store(t)
	must(t, os.WriteFile(filepath.Join(fx.tree.Roots[0], "large"), []byte(strings.Repeat("x", 8<<20)), 0o600))
	_, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	if f := fault.Of(err); f == nil || f.Code != fault.RepositoryFull || f.Hint == "" {
		t.Errorf("got %v", err)
	}
	if list, err := fx.List(t.Context(), fx.config, ""); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if left, _ := filepath.Glob(filepath.Join(small, "db1", "2*")); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

func TestWrongOptionsAreNamed(t *testing.T) {
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
	for _, path := range []string{"", "host:relative", "-oProxyCommand=x:/y", "rsync://host/x", "host::module/x",
		"a b:/x", "u@-h:/x"} {
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

func TestUnsafeHostNamesAreRefused(t *testing.T) {
	fx := newFixture(t)
	for _, host := range []string{"", "..", "a/b", ".hidden", "-x", "*"} {
		fx.tree.Host = host
		if _, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress); !errors.Is(err, fault.BadArguments) {
			t.Errorf("%q: %v", host, err)
		}
	}
	checkEmpty(t, fx.path())
}

// One marker that cannot be read fails neither the list nor any Store.
// Its tree is no leftover of a killed run.
func TestDamagedMarkerIsListed(t *testing.T) {
	fx := newFixture(t)
	stored := fx.store(t)
	tree := filepath.Join(fx.path(), "db1", "20261123T200000Z")
	must(t, os.WriteFile(tree+".json", []byte("{}"), 0o600))
	if list, err := fx.List(t.Context(), fx.config, ""); err != nil || len(list) != 1 || !list[0].Incomplete {
		t.Errorf("listed %+v, %v, of a marker that says nothing", list, err)
	}
	must(t, os.WriteFile(tree+".json", nil, 0o600)) // as a power cut leaves it
	list, err := fx.List(t.Context(), fx.config, "")
	if err != nil || len(list) != 1 || list[0].ID != stored.ID || list[0].Host != "db1" || !list[0].Incomplete ||
		!list[0].Time.Equal(instant.Truncate(time.Second)) || !strings.Contains(list[0].Damaged, "cannot be read") {
		t.Errorf("listed %+v, %v", list, err)
	}
	err = fx.Present(t.Context(), fx.config, stored.ID, ignoreProgress, nil)
	if f := fault.Of(err); f == nil || f.Code != fault.BackendFailed || f.Hint == "" {
		t.Errorf("Present: %v", err)
	}
	if next := fx.store(t); next.Sequence != 2 {
		t.Errorf("the next backup got the number %d, want 2: the first may have 1", next.Sequence)
	}
	must(t, fx.Settle(t.Context(), fx.config))
	if _, err := os.Stat(tree); err != nil {
		t.Errorf("Settle removed it: %v", err)
	}
	fx.tree.Host = "db2"
	fx.store(t)
}
