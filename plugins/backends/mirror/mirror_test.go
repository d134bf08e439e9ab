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

// must fails the test if one of the errors is not nil.
func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fixture is a repository and a directory to be stored.
type fixture struct {
	*testing.T
	config backup.Config
	path   string // of the repository
	root   string // the directory to be stored
}

func newFixture(t *testing.T) *fixture {
	fx := &fixture{T: t, path: t.TempDir(), root: filepath.Join(t.TempDir(), "dat")}
	fx.config = backup.Config{Options: map[string]any{"path": fx.path}, Scratch: t.TempDir()}
	must(t, os.Mkdir(fx.root, 0o755))
	return fx
}

func (fx *fixture) write(name, content string) {
	fx.Helper()
	must(fx, os.WriteFile(filepath.Join(fx.root, name), []byte(content), 0o644))
}

// try stores the root. The backup's time is n minutes after noon.
func (fx *fixture) try(n int) (backup.Stored, error) {
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Date(2026, 1, 2, 12, n, 0, 5000, time.UTC),
		Roots: []string{fx.root}}
	return New().Store(fx.Context(), fx.config, tree, ignoreProgress)
}

func (fx *fixture) store(n int) backup.Stored {
	fx.Helper()
	stored, err := fx.try(n)
	must(fx, err)
	return stored
}

// ids returns the IDs of the backups, the latest first.
func (fx *fixture) ids() []string {
	fx.Helper()
	all, err := New().List(fx.Context(), fx.config, "")
	must(fx, err)
	ids := []string{}
	for _, b := range all {
		ids = append(ids, b.ID)
	}
	return ids
}

// present calls use with the directory of the root in a backup.
func (fx *fixture) present(id string, use func(dir string)) {
	fx.Helper()
	must(fx, New().Present(fx.Context(), fx.config, id, ignoreProgress, func(_ context.Context, p backup.Presented) error {
		use(p.Roots[fx.root])
		return nil
	}))
}

func (fx *fixture) inode(path string) uint64 {
	fx.Helper()
	var st unix.Stat_t
	must(fx, unix.Lstat(path, &st))
	return st.Ino
}

// entries returns the names in the host's directory.
func (fx *fixture) entries() []string {
	fx.Helper()
	all, err := os.ReadDir(filepath.Join(fx.path, "web"))
	must(fx, err)
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

func TestUnchangedFilesAreHardLinks(t *testing.T) {
	fx := newFixture(t)
	fx.write("same", "content")
	fx.write("other", "content")
	first := fx.store(0)
	fx.write("other", "changed")
	second := fx.store(1)
	at := func(b backup.Stored, name string) uint64 {
		return fx.inode(filepath.Join(fx.path, "web", b.ID, fx.root, name))
	}
	if at(first, "same") != at(second, "same") || at(first, "other") == at(second, "other") {
		t.Error("only the file that has not changed should be a hard link")
	}
	if second.Added != int64(len("changed")) || second.Files != 2 {
		t.Errorf("%+v", second)
	}
	fx.present(first.ID, func(dir string) {
		if data, err := os.ReadFile(filepath.Join(dir, "other")); err != nil || string(data) != "content" {
			t.Errorf("the first backup holds %q, %v", data, err)
		}
	})
}

// A backup was made while the clock was fast, so it is dated in the future. A file that has changed since and kept its
// size and mtime is stored all the same. As soon as there is another backup, files are linked to that one.
func TestBackupDatedInFutureIsOnlyLinkedToIfAlone(t *testing.T) {
	const year = 365 * 24 * 60
	fx := newFixture(t)
	fx.write("same", "content")
	fx.write("file", "before")
	future := fx.store(10 * year)
	info, err := os.Stat(filepath.Join(fx.root, "file"))
	must(t, err)
	fx.write("file", "after!")
	must(t, os.Chtimes(filepath.Join(fx.root, "file"), info.ModTime(), info.ModTime()))
	first, second := fx.store(0), fx.store(1)
	at := func(b backup.Stored, name string) string { return filepath.Join(fx.path, "web", b.ID, fx.root, name) }
	if data, err := os.ReadFile(at(first, "file")); err != nil || string(data) != "after!" {
		t.Errorf("after a backup dated in the future, %q was stored (%v)", data, err)
	}
	if fx.inode(at(future, "same")) != fx.inode(at(first, "same")) {
		t.Error("a file that has not changed is not linked to the only backup")
	}
	if fx.inode(at(first, "file")) != fx.inode(at(second, "file")) {
		t.Error("the file is not linked to the last backup")
	}
}

// If the last backup is damaged, the next one is made without links to it.
func TestStoreAfterDamagedBackup(t *testing.T) {
	fx := newFixture(t)
	fx.write("file", "content")
	first := fx.store(0)
	must(t, os.RemoveAll(filepath.Join(fx.path, "web", first.ID)))
	second := fx.store(1)
	fx.present(second.ID, func(dir string) {
		if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "content" {
			t.Errorf("%q, %v", data, err)
		}
	})
}

func shortenStoreWait(t *testing.T, limit time.Duration) {
	before := storeWait
	t.Cleanup(func() { storeWait = before })
	storeWait = limit
}

// A Store waits for one of another run that began after its Check.
func TestStoreWaitsForAnother(t *testing.T) {
	fx := newFixture(t)
	fx.store(0)
	unlock, err := hostDir{host: "web", dir: filepath.Join(fx.path, "web")}.lock()
	must(t, err)
	waits := false
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Unix(0, 0), Roots: []string{fx.root}}
	_, err = New().Store(t.Context(), fx.config, tree, func(p backup.Progress) {
		if !waits && strings.HasPrefix(p.Label, "waiting: another run stores") {
			waits = true
			unlock()
		}
	})
	must(t, err)
	if !waits {
		t.Error("it does not say that it waits")
	}
}

func TestLockedHostIsRepositoryLocked(t *testing.T) {
	fx := newFixture(t)
	stored := fx.store(0)
	unlock, err := hostDir{host: "web", dir: filepath.Join(fx.path, "web")}.lock()
	must(t, err)
	shortenStoreWait(t, 10*time.Millisecond)
	_, err = fx.try(1)
	wantCode(t, err, fault.RepositoryLocked, "web")
	wantCode(t, New().Forget(t.Context(), fx.config, stored.ID), fault.RepositoryLocked, "web")

	left := filepath.Join(fx.path, "web", "20260102T120500Z-web.partial")
	must(t, os.MkdirAll(left+"/dat", 0o700), New().Settle(t.Context(), fx.config))
	if _, err := os.Stat(left); err != nil {
		t.Errorf("Settle removed the tree of a run that is alive: %v", err)
	}
	unlock()
	must(t, New().Settle(t.Context(), fx.config))
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("half a backup is left: %v", err)
	}
	if got := fx.ids(); !cmp.Equal(got, []string{stored.ID}) {
		t.Errorf("listed %q", got)
	}
}

// Check fails if this host's backups are locked, not if another host's are.
func TestCheckLooksAtLockOfOwnHostOnly(t *testing.T) {
	fx := newFixture(t)
	own, err := os.Hostname()
	must(t, err)
	for _, host := range []string{own, "another-" + own} {
		dir := filepath.Join(fx.path, host)
		must(t, os.Mkdir(dir, 0o700))
		unlock, err := hostDir{host: host, dir: dir}.lock()
		must(t, err)
		_, err = New().Check(t.Context(), fx.config)
		if locked := isRepositoryLocked(err); locked != (host == own) {
			t.Errorf("%s is locked: %v", host, err)
		}
		unlock()
	}
	if entries, err := os.ReadDir(fx.path); err != nil || len(entries) != 2 {
		t.Errorf("Check left something: %v, %v", entries, err)
	}
}

// Settle removes what a killed run may have left at any point. Complete backups and files of others stay.
func TestSettleRemovesLeftoversOnly(t *testing.T) {
	fx := newFixture(t)
	stored := fx.store(0)
	at := func(name string) string { return filepath.Join(fx.path, "web", name) }
	must(t, os.MkdirAll(at("20260102T120500Z-web.partial/dat/x"), 0o700), // killed while it stored
		os.MkdirAll(at("20260102T120600Z.2-web/dat"), 0o700), // killed before it was recorded, or while it was forgotten
		os.MkdirAll(at("lost+found"), 0o700), os.WriteFile(at("notes.txt"), nil, 0o600))
	want := []string{".lock", stored.ID, stored.ID + ".json", "lost+found", "notes.txt"}
	must(t, New().Settle(t.Context(), fx.config))
	if got := fx.entries(); !cmp.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
}

func TestFullRepositoryIsCleanedUp(t *testing.T) {
	fx := newFixture(t)
	must(t, unix.Mount("tmpfs", fx.path, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(fx.path, 0)) })
	fx.write("small", "content")
	first := fx.store(0)
	fx.write("large", strings.Repeat("x", 2<<20))
	_, err := fx.try(1)
	wantCode(t, err, fault.RepositoryFull, "no space left on device")
	if want := []string{".lock", first.ID, first.ID + ".json"}; !cmp.Equal(fx.entries(), want) {
		t.Errorf("there is %q, want %q", fx.entries(), want)
	}
	must(t, os.Remove(filepath.Join(fx.root, "large")))
	fx.store(2)
}

func TestForgetFailsWhileBackupIsRead(t *testing.T) {
	fx := newFixture(t)
	fx.write("file", "content")
	first := fx.store(0)
	fx.present(first.ID, func(dir string) {
		wantCode(t, New().Forget(t.Context(), fx.config, first.ID), fault.RepositoryLocked, first.ID)
		fx.present(first.ID, func(string) {}) // others may read it, too
		if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "content" {
			t.Errorf("%q, %v", data, err)
		}
	})
	must(t, New().Forget(t.Context(), fx.config, first.ID))
	if got := fx.ids(); len(got) > 0 {
		t.Errorf("listed %q", got)
	}
	if got := fx.entries(); len(got) != 1 { // the lock
		t.Errorf("there is %q", got)
	}
}

// One record that cannot be read fails neither the list nor the backups of other hosts. One that is another backup's
// fails the next Store, because it is in doubt whose directory that is.
func TestWrongRecordIsListedAsDamaged(t *testing.T) {
	fx := newFixture(t)
	stored := fx.store(0)
	record := filepath.Join(fx.path, "web", stored.ID+".json")
	data, err := os.ReadFile(record)
	must(t, err)
	other := backup.Tree{Host: "mail", Set: "snap", Time: time.Unix(0, 0), Roots: []string{fx.root}}
	for _, change := range [][2]string{{stored.ID, "20200101T000000Z-web"}, {`"web"`, `"mail"`}, {`"/`, `"/../`},
		{"{", ""}} {
		must(t, os.WriteFile(record, []byte(strings.Replace(string(data), change[0], change[1], 1)), 0o600))
		list, err := New().List(t.Context(), fx.config, "web")
		if err != nil || len(list) != 1 || list[0].ID != stored.ID || !list[0].Incomplete ||
			!list[0].Time.Equal(stored.Time.Truncate(time.Second)) || !strings.Contains(list[0].Damaged, record) {
			t.Errorf("%q: listed %+v, %v", change, list, err)
		}
		if isAnothers := change[0] == stored.ID || change[1] == `"mail"`; isAnothers {
			_, err = fx.try(1)
			wantCode(t, err, fault.BackendFailed, record)
		}
		err = New().Present(t.Context(), fx.config, stored.ID, ignoreProgress, nil)
		wantCode(t, err, fault.BackendFailed, record)
		_, err = New().Store(t.Context(), fx.config, other, ignoreProgress)
		must(t, err)
	}
}

// A symbolic link in the place of a backup, or of a host's directory, may lead out of the repository. Nothing is
// removed there.
func TestNothingIsRemovedThroughASymbolicLink(t *testing.T) {
	fx := newFixture(t)
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o600))
	stored := fx.store(0)
	dir := filepath.Join(fx.path, "web", stored.ID)
	must(t, os.RemoveAll(dir), os.Symlink(outside, dir))
	err := New().Forget(t.Context(), fx.config, stored.ID)
	if _, gone := os.Stat(filepath.Join(outside, "file")); gone != nil {
		t.Errorf("Forget (%v) emptied a directory that a link led to: %v", err, gone)
	}
	must(t, err)
	if left := fx.entries(); !slices.Equal(left, []string{".lock"}) {
		t.Errorf("left: %v", left)
	}
	must(t, os.RemoveAll(filepath.Join(fx.path, "web")), os.Symlink(outside, filepath.Join(fx.path, "web")))
	_, err = fx.try(1)
	wantCode(t, err, fault.BackendFailed, filepath.Join(fx.path, "web")+" is a symbolic link")
	fx.config.Host = "web"
	_, err = New().Check(t.Context(), fx.config)
	wantCode(t, err, fault.BackendFailed, filepath.Join(fx.path, "web")+" is a symbolic link")
}

// A directory that was renamed for a server with a new name, or moved away with a link in its place, is not taken for
// one without backups, and the hint says how to go on.
func TestRenamedAndMovedHostIsNamed(t *testing.T) {
	fx := newFixture(t)
	fx.store(0)
	web, mail := filepath.Join(fx.path, "web"), filepath.Join(fx.path, "mail")
	must(t, os.Rename(web, mail))
	_, err := New().Store(t.Context(), fx.config, backup.Tree{Host: "mail", Set: "snap", Time: time.Unix(0, 0),
		Roots: []string{fx.root}}, ignoreProgress)
	if f := fault.Of(err); f == nil || f.Code != fault.BackendFailed || !strings.Contains(f.Hint, "host=web") {
		t.Errorf("after a rename: %v", err)
	}
	must(t, os.Symlink(mail, web))
	_, err = New().List(t.Context(), fx.config, "web")
	wantCode(t, err, fault.BackendFailed, web+" is a symbolic link")
}

// If somebody has put a symbolic link into a backup, Present fails and does not follow it.
func TestPresentFollowsNoSymbolicLink(t *testing.T) {
	for _, below := range []string{"", "root", "above the root"} {
		t.Run(below, func(t *testing.T) {
			fx := newFixture(t)
			stored := fx.store(0)
			link := filepath.Join(fx.path, "web", stored.ID)
			switch below {
			case "root":
				link += fx.root
			case "above the root":
				link += filepath.Dir(fx.root)
			}
			must(t, os.RemoveAll(link), os.Symlink("/", link))
			err := New().Present(t.Context(), fx.config, stored.ID, ignoreProgress,
				func(_ context.Context, p backup.Presented) error {
					return fmt.Errorf("presented %v", p.Roots)
				})
			wantCode(t, err, fault.BackendFailed, "through a symbolic link")
		})
	}
}

// A Store that is canceled before the whole tree is on the disk lists no backup.
func TestCanceledStoreListsNothing(t *testing.T) {
	fx := newFixture(t)
	fx.write("file", strings.Repeat("x", 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	tree := backup.Tree{Host: "web", Time: time.Unix(0, 0), Roots: []string{fx.root}}
	_, err := New().Store(ctx, fx.config, tree, func(p backup.Progress) {
		if p.Done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := fx.ids(); len(got) > 0 {
		t.Errorf("listed %q", got)
	}
	fx.store(1)
	if got := fx.entries(); len(got) != 3 {
		t.Errorf("there is %q", got)
	}
}

// Store removes what killed runs left. It keeps directories of others, even if their names resemble those of backups.
func TestStoreKeepsDirectoriesOfOthers(t *testing.T) {
	fx := newFixture(t)
	fx.store(0)
	dir := filepath.Join(fx.path, "web")
	kept := []string{"20261123T200000Z-web.keep", "20261123T200000Z-db", "20261123T200000Z.x-web", "20261123T200000Z"}
	gone := []string{"20261123T200000Z-web", "20261123T200000Z.2-web.partial"}
	for _, name := range slices.Concat(kept, gone) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	fx.store(1)
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
