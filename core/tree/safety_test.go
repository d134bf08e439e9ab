package tree_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

// tmpfs mounts a new tmpfs, which only root can do, and returns its mount point.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

// watchedDir returns a directory with files, and a function that fails the test if they are no longer as they were.
func watchedDir(t *testing.T) (dir string, unchanged func()) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir+"/passwd", []byte("root"))
	write(t, dir+"/sub/file", []byte("precious"))
	setMtime(t, dir, 3, 3)
	before := describe(t, dir)
	return dir, func() {
		t.Helper()
		if diff := cmp.Diff(before, describe(t, dir)); diff != "" {
			t.Fatal("changed outside:\n" + diff)
		}
	}
}

// Symbolic links that lead out of the tree are copied and not followed. Links in `to` in the place of other entries are
// replaced.
func TestSymbolicLinksAreNotFollowed(t *testing.T) {
	out, unchanged := watchedDir(t)
	from, to := emptyTrees(t)
	write(t, from+"/dir/file", []byte("new"))
	write(t, from+"/dir/sub/file", []byte("new"))
	write(t, from+"/file", []byte("new"))
	must(t, unix.Mkfifo(from+"/fifo", 0o600), os.Mkdir(from+"/empty", 0o700), os.Link(from+"/file", from+"/dir/link"))
	must(t, os.Symlink(out, from+"/to-dir"), os.Symlink(out+"/passwd", from+"/to-file"))
	for _, name := range []string{"dir", "empty", "extra-dir"} {
		must(t, os.Symlink(out, filepath.Join(to, name)))
	}
	for _, name := range []string{"file", "fifo", "extra-file"} {
		must(t, os.Symlink(out+"/passwd", filepath.Join(to, name)))
	}
	syncAndVerify(t, from, to, tree.Options{})
	unchanged()
}

// Before one of the writes, each in turn, a directory of `to` is replaced by a symbolic link that leads out of the
// tree. Sync may fail then, but must never write where the link leads.
func TestDirectoryReplacedByLinkAtEachWrite(t *testing.T) {
	out, unchanged := watchedDir(t)
	from, _ := emptyTrees(t)
	write(t, from+"/dir/file", randomBytes(1, 9000))
	write(t, from+"/dir/passwd", randomBytes(2, 9000))
	write(t, from+"/dir/sub/file", randomBytes(3, 9000))
	must(t, os.Link(from+"/dir/file", from+"/dir/sub/link"), os.Link(from+"/dir/passwd", from+"/last"),
		unix.Mkfifo(from+"/dir/sub/fifo", 0o600))
	for n := 0; ; n++ {
		to, asked := t.TempDir(), 0
		must(t, os.Symlink(out, to+"/spare"))
		_, err := tree.Sync(t.Context(), from, to, tree.Options{Skip: []string{"spare"}, Gate: func(int64) error {
			if asked++; asked == n {
				_ = unix.Renameat2(unix.AT_FDCWD, to+"/dir", unix.AT_FDCWD, to+"/spare", unix.RENAME_EXCHANGE)
			}
			return nil
		}})
		unchanged()
		if err != nil && fault.Of(err).Code == "" {
			t.Errorf("no code: %v", err)
		}
		if n > asked {
			break
		}
	}
}

// As above, but another goroutine replaces the directory at any moment.
func TestDirectoryReplacedByLinkAtAnyMoment(t *testing.T) {
	t.Parallel()
	out, unchanged := watchedDir(t)
	from, to := emptyTrees(t)
	other := t.TempDir() // has other files than `from`, so that each Sync makes and deletes some
	for i := range 5 {
		for k, top := range []string{from, other} {
			write(t, fmt.Sprintf("%s/dir/%d", top, i+3*k), randomBytes(i+k, 5000))
			write(t, fmt.Sprintf("%s/dir/sub%d/%d", top, k, i), randomBytes(i, 5000))
		}
	}
	write(t, from+"/dir/passwd", randomBytes(8, 5000))
	must(t, os.Symlink(out, to+"/spare"), os.Mkdir(to+"/dir", 0o755))
	ctx, stop := context.WithCancel(t.Context())
	swapped := make(chan int)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if unix.Renameat2(unix.AT_FDCWD, to+"/dir", unix.AT_FDCWD, to+"/spare", unix.RENAME_EXCHANGE) == nil {
				n++
			}
		}
		swapped <- n
	}()
	for range 60 {
		_, _ = tree.Sync(t.Context(), from, to, tree.Options{Skip: []string{"spare"}})
		_, _ = tree.Sync(t.Context(), other, to, tree.Options{Skip: []string{"spare"}})
	}
	stop()
	if n := <-swapped; n < 60 {
		t.Errorf("swapped %d times only", n)
	}
	unchanged()
}

func TestFullFileSystemIsNoSpace(t *testing.T) {
	from, _ := emptyTrees(t)
	to := tmpfs(t, "512k")
	write(t, from+"/a", randomBytes(1, 100<<10))
	write(t, from+"/large", randomBytes(2, 1<<20))
	done, err := tree.Sync(t.Context(), from, to, tree.Options{})
	if fault.Of(err) == nil || fault.Of(err).Code != fault.NoSpace || !strings.Contains(err.Error(), to+"/large") {
		t.Errorf("got %v", err)
	}
	if done.Written < 100<<10 {
		t.Errorf("%+v", done)
	}
}

func TestCanceledContextIsInterrupted(t *testing.T) {
	from, to := emptyTrees(t)
	write(t, from+"/a", randomBytes(1, 4<<20))
	write(t, from+"/b", randomBytes(2, 5000))
	ctx, cancel := context.WithCancelCause(t.Context())
	hangup := errors.New("hangup")
	done, err := tree.Sync(ctx, from, to, tree.Options{Gate: func(n int64) error {
		if n > tree.Block {
			cancel(hangup)
		}
		return nil
	}})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, hangup) {
		t.Errorf("the cause is lost: %v", err)
	}
	if f := fault.Of(err); f == nil || f.Code != fault.Interrupted || !strings.Contains(f.Msg, "/a: hangup") {
		t.Errorf("got %v", err)
	}
	if done.Written == 0 || done.Written >= 4<<20 {
		t.Errorf("it goes on within a large file: %+v", done)
	}
	if _, err := tree.Estimate(ctx, from, to, tree.Options{}); !errors.Is(err, fault.Interrupted) {
		t.Errorf("Estimate: %v", err)
	}
}

func TestLiveToleratesVanishedFiles(t *testing.T) {
	const shorter = 5<<20 + 88<<10 // than b was, and longer than what is read of it at once
	setup := func(t *testing.T) (from, to string, opts tree.Options) {
		from, to = emptyTrees(t)
		write(t, from+"/a", randomBytes(1, 5000))
		write(t, from+"/b", randomBytes(2, 8<<20))
		write(t, from+"/c", randomBytes(3, 5000))
		write(t, from+"/d/file", nil)
		gate := func(n int64) error {
			switch n {
			case 5000: // while a is written
				must(t, os.Remove(from+"/c"), os.RemoveAll(from+"/d"))
			case 512 << 10:
				must(t, os.Truncate(from+"/b", shorter))
			}
			return nil
		}
		return from, to, tree.Options{Gate: gate}
	}
	t.Run("expected", func(t *testing.T) {
		from, to, opts := setup(t)
		opts.Live = true
		done, err := tree.Sync(t.Context(), from, to, opts)
		must(t, err)
		want := []string{from + "/c", from + "/d"}
		if !cmp.Equal(done.Vanished, want) || done.Unreadable != nil {
			t.Errorf("vanished %q, unreadable %q", done.Vanished, done.Unreadable)
		}
		data, err := os.ReadFile(to + "/b")
		if err != nil || string(data) != string(randomBytes(2, shorter)) {
			t.Errorf("%d bytes of b, %v", len(data), err)
		}
	})
	t.Run("not expected", func(t *testing.T) {
		from, to, opts := setup(t)
		done, err := tree.Sync(t.Context(), from, to, opts)
		if !errors.Is(err, fault.SourceVanished) || !strings.Contains(err.Error(), from+"/c") {
			t.Errorf("got %v", err)
		}
		if want := []string{from + "/b"}; !cmp.Equal(done.Unreadable, want) {
			t.Errorf("unreadable %q", done.Unreadable)
		}
		if _, err := os.Lstat(to + "/b"); !os.IsNotExist(err) {
			t.Errorf("half a file is left: %v", err)
		}
	})
}

// What is removed from `from` after it was listed, or between the two passes, is not in the second list. A Sync that
// did not notice would leave what `to` had before, and say that the trees are equal.
func TestEntriesRemovedBetweenThePassesAreNoticed(t *testing.T) {
	for _, gone := range []string{"a", "a/file", "empty"} {
		for at := 1; at <= 3; at++ { // the deletion of one of the extra entries, during the survey
			if gone == "a/file" && at == 1 {
				continue // a is not listed yet: both passes see the same
			}
			from, to := emptyTrees(t)
			for _, top := range []string{from, to} {
				write(t, top+"/a/file", []byte(top))
				must(t, os.Mkdir(top+"/empty", 0o755))
			}
			write(t, to+"/extra", nil)
			write(t, to+"/a/extra", nil)
			write(t, to+"/empty/extra", nil)
			gates := 0
			opts := tree.Options{Gate: func(int64) error {
				if gates++; gates == at {
					return os.RemoveAll(filepath.Join(from, gone))
				}
				return nil
			}}
			_, err := tree.Sync(t.Context(), from, to, opts)
			if !errors.Is(err, fault.SourceVanished) || !strings.Contains(err.Error(), from) {
				t.Errorf("%s, removed at write %d: %v", gone, at, err)
			}
			opts.Live, gates = true, 0
			write(t, from+"/a/file", nil)
			must(t, os.MkdirAll(from+"/empty", 0o755))
			if _, err := tree.Sync(t.Context(), from, to, opts); err != nil {
				t.Errorf("%s, removed at write %d of a live tree: %v", gone, at, err)
			}
		}
	}
}

// asUser runs fn with the access rights to files of another user. It sets the file system UID of this thread.
func asUser(t *testing.T, uid int, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, err := unix.SetfsuidRetUid(uid)
	must(t, err)
	defer func() { must(t, unix.Setfsuid(0)) }()
	fn()
}

func TestUnreadableFilesAreReported(t *testing.T) {
	from, to := emptyTrees(t)
	must(t, os.Chmod(filepath.Dir(filepath.Dir(from)), 0o755)) // above it, t.TempDir lets in root only
	write(t, from+"/closed", []byte("closed"))
	write(t, from+"/kept", []byte("closed, too"))
	write(t, from+"/open", []byte("open"))
	write(t, from+"/dir/file", nil)
	write(t, to+"/dir/old", nil)
	write(t, to+"/kept", []byte("old"))
	for _, top := range []string{from, to} {
		for path := range describe(t, top) {
			must(t, os.Chown(filepath.Join(top, path), 1000, 0))
		}
	}
	for _, name := range []string{"closed", "kept", "dir"} {
		must(t, os.Chmod(filepath.Join(from, name), 0), os.Chown(filepath.Join(from, name), 0, 0))
	}
	var done tree.Done
	var err error
	asUser(t, 1000, func() { done, err = tree.Sync(t.Context(), from, to, tree.Options{Live: true}) })
	if f := fault.Of(err); f == nil || !strings.Contains(f.Msg, "set the owner of "+to+"/dir: operation not permitted") {
		t.Errorf("only root can give away a directory: %v", err)
	}
	want := []string{from + "/dir", from + "/closed", from + "/kept"}
	if !cmp.Equal(done.Unreadable, want) || done.Vanished != nil {
		t.Errorf("unreadable %q, vanished %q", done.Unreadable, done.Vanished)
	}
	got := map[string]string{}
	for _, name := range []string{"open", "kept", "dir/old", "closed"} {
		data, err := os.ReadFile(filepath.Join(to, name))
		got[name] = string(data)
		if err != nil {
			got[name] = "missing"
		}
	}
	if want := map[string]string{"open": "open", "kept": "old", "dir/old": "", "closed": "missing"}; !maps.Equal(got,
		want) {
		t.Errorf("got %v", got)
	}
}

// A directory that cannot be opened during the survey, but can be later, is reported as unreadable: its extra files in
// `to` were not deleted.
func TestFileUnreadableDuringSurveyIsReported(t *testing.T) {
	from, to := emptyTrees(t)
	must(t, os.Chmod(filepath.Dir(filepath.Dir(from)), 0o755)) // above it, t.TempDir lets in root only
	write(t, from+"/above/dir/file", []byte("new"))
	write(t, to+"/above/dir/extra", nil)
	write(t, from+"/later/file", nil)
	write(t, to+"/later/extra", nil) // deleted first, after the survey has looked at "above"
	for _, top := range []string{from, to} {
		for path := range describe(t, top) {
			must(t, os.Chown(filepath.Join(top, path), 1000, 0))
		}
	}
	must(t, os.Chmod(from+"/above", 0o400)) // its names can be listed, but not opened
	open := func(int64) error { return os.Chmod(from+"/above", 0o755) }
	var done tree.Done
	var err error
	asUser(t, 1000, func() { done, err = tree.Sync(t.Context(), from, to, tree.Options{Gate: open}) })
	must(t, err)
	if want := []string{from + "/above/dir"}; !cmp.Equal(done.Unreadable, want) {
		t.Errorf("unreadable %q, want %q", done.Unreadable, want)
	}
	if _, err := os.Stat(to + "/above/dir/file"); err != nil {
		t.Errorf("it was not readable again, so this proves nothing: %v", err)
	}
}

func TestOneFileSystemLeavesMountsAlone(t *testing.T) {
	from, to := emptyTrees(t)
	for _, top := range []string{from, to} {
		for _, dir := range []string{"device", "bound", "plain", "target"} {
			must(t, os.Mkdir(filepath.Join(top, dir), 0o755))
		}
	}
	other := t.TempDir()
	write(t, other+"/elsewhere", []byte("x"))
	write(t, to+"/device/kept", nil)
	write(t, to+"/bound/kept", nil)
	write(t, from+"/plain/file", nil)
	write(t, from+"/target/new", nil)
	must(t, os.Mkdir(to+"/deleted", 0o755))
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		must(t, unix.Mount(source, target, kind, flags, ""))
		t.Cleanup(func() { must(t, unix.Unmount(target, 0)) })
	}
	mount("tmpfs", from+"/device", "tmpfs", 0)
	write(t, from+"/device/not", nil)
	mount(other, from+"/bound", "", unix.MS_BIND) // on the same device
	mount(other, to+"/target", "", unix.MS_BIND)
	mount(other, to+"/deleted", "", unix.MS_BIND)
	setMtime(t, from+"/device", 9, 9)
	setMtime(t, from+"/target", 9, 9)

	before := describe(t, other)
	done, err := tree.Sync(t.Context(), from, to, tree.Options{OneFileSystem: true})
	must(t, err)
	if want := []string{to + "/deleted: a mount point, left as it is"}; !cmp.Equal(done.Warnings, want) {
		t.Errorf("warnings %q", done.Warnings)
	}
	if diff := cmp.Diff(before, describe(t, other)); diff != "" {
		t.Error("written through a mount point:\n" + diff)
	}
	if again, err := tree.Sync(t.Context(), from, to, tree.Options{OneFileSystem: true}); err != nil || !again.Same() {
		t.Errorf("a second run: %+v, %v", again, err)
	}
	for name, want := range map[string]bool{"device/kept": true, "bound/kept": true, "plain/file": true,
		"device/not": false, "bound/elsewhere": false} {
		if _, err := os.Lstat(filepath.Join(to, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := os.Lstat(to + "/device"); err != nil || st.ModTime().Unix() != 9 {
		t.Errorf("the directory of a mount is made like it: %v, %v", st.ModTime(), err)
	}

	must(t, os.Remove(from+"/target/new"), os.Remove(from+"/target"), os.WriteFile(from+"/target", nil, 0o644))
	done, err = tree.Sync(t.Context(), from, to, tree.Options{OneFileSystem: true})
	if want := to + "/target: a mount point, left as it is"; err != nil || !slices.Contains(done.Warnings, want) {
		t.Errorf("a mount point in the way: %v, %q", err, done.Warnings)
	}
	_, err = tree.Sync(t.Context(), from, to, tree.Options{})
	if f := fault.Of(err); f == nil || f.Code != fault.Busy || !strings.Contains(f.Hint, "findmnt") {
		t.Errorf("a mount point in the way: %v", err)
	}
}

// If the file system of `to` cannot hold an extended attribute, Sync fails and names the attribute.
func TestAttributeTheTargetCannotHoldIsUnsupported(t *testing.T) {
	from, _ := emptyTrees(t)
	write(t, from+"/f", []byte("x"))
	must(t, unix.Setxattr(from+"/f", "user.big", make([]byte, 3000), 0))
	to := t.TempDir()
	must(t, unix.Mount("ramfs", to, "ramfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(to, 0)) })
	_, err := tree.Sync(t.Context(), from, to, tree.Options{})
	if f := fault.Of(err); f == nil || f.Code != fault.Unsupported ||
		!strings.Contains(f.Msg, "set the attribute user.big of "+to+"/f") {
		t.Errorf("got %v", err)
	}
	// If the file system of `from` cannot hold attributes, those in `to` stay as they are.
	must(t, os.WriteFile(to+"/f", []byte("y"), 0o644))
	_, err = tree.Sync(t.Context(), to, from, tree.Options{})
	must(t, err)
	if got := attributes(t, from+"/f"); !strings.HasPrefix(got, "user.big=") {
		t.Errorf("attributes %q", got)
	}
}
