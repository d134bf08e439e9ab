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

// tmpfs mounts a file system of its own, which takes root.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	do(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { do(t, unix.Unmount(dir, 0)) })
	return dir
}

// outside returns a directory that must stay as it is.
func outside(t *testing.T) (dir string, unchanged func()) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir+"/passwd", []byte("root"))
	write(t, dir+"/sub/file", []byte("precious"))
	date(t, dir, 3, 3)
	before := describe(t, dir)
	return dir, func() {
		t.Helper()
		if diff := cmp.Diff(before, describe(t, dir)); diff != "" {
			t.Fatal("changed outside:\n" + diff)
		}
	}
}

// Links that lead out of the tree are copied, not followed, and those in the way are replaced.
func TestSymbolicLinksAreNotFollowed(t *testing.T) {
	out, unchanged := outside(t)
	from, to := trees(t)
	write(t, from+"/dir/file", []byte("new"))
	write(t, from+"/dir/sub/file", []byte("new"))
	write(t, from+"/file", []byte("new"))
	do(t, unix.Mkfifo(from+"/fifo", 0o600), os.Mkdir(from+"/empty", 0o700), os.Link(from+"/file", from+"/dir/link"))
	do(t, os.Symlink(out, from+"/to-dir"), os.Symlink(out+"/passwd", from+"/to-file"))
	for _, name := range []string{"dir", "empty", "extra-dir"} {
		do(t, os.Symlink(out, filepath.Join(to, name)))
	}
	for _, name := range []string{"file", "fifo", "extra-file"} {
		do(t, os.Symlink(out+"/passwd", filepath.Join(to, name)))
	}
	sync(t, from, to, tree.Options{})
	unchanged()
}

// At every write a directory of `to` is swapped for a link that leads out. It may fail then, but never write there.
func TestDirectorySwappedForLink(t *testing.T) {
	out, unchanged := outside(t)
	from, _ := trees(t)
	write(t, from+"/dir/file", random(1, 9000))
	write(t, from+"/dir/passwd", random(2, 9000))
	write(t, from+"/dir/sub/file", random(3, 9000))
	do(t, os.Link(from+"/dir/file", from+"/dir/sub/link"), os.Link(from+"/dir/passwd", from+"/last"), unix.Mkfifo(from+"/dir/sub/fifo", 0o600))
	for n := 0; ; n++ {
		to, asked := t.TempDir(), 0
		do(t, os.Symlink(out, to+"/spare"))
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

// The same, at any moment.
func TestDirectorySwappedAllTheTime(t *testing.T) {
	t.Parallel()
	out, unchanged := outside(t)
	from, to := trees(t)
	other := t.TempDir() // whose files are other ones, so that there is always something to make and to delete
	for i := range 5 {
		for k, top := range []string{from, other} {
			write(t, fmt.Sprintf("%s/dir/%d", top, i+3*k), random(i+k, 5000))
			write(t, fmt.Sprintf("%s/dir/sub%d/%d", top, k, i), random(i, 5000))
		}
	}
	write(t, from+"/dir/passwd", random(8, 5000))
	do(t, os.Symlink(out, to+"/spare"), os.Mkdir(to+"/dir", 0o755))
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

func TestFull(t *testing.T) {
	from, _ := trees(t)
	to := tmpfs(t, "512k")
	write(t, from+"/a", random(1, 100<<10))
	write(t, from+"/large", random(2, 1<<20))
	done, err := tree.Sync(t.Context(), from, to, tree.Options{})
	if fault.Of(err) == nil || fault.Of(err).Code != fault.NoSpace || !strings.Contains(err.Error(), to+"/large") {
		t.Errorf("got %v", err)
	}
	if done.Written < 100<<10 {
		t.Errorf("%+v", done)
	}
}

func TestCancelled(t *testing.T) {
	from, to := trees(t)
	write(t, from+"/a", random(1, 4<<20))
	write(t, from+"/b", random(2, 5000))
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

func TestLive(t *testing.T) {
	const shorter = 5<<20 + 88<<10 // than b was, and longer than what is read of it at once
	setup := func(t *testing.T) (from, to string, o tree.Options) {
		from, to = trees(t)
		write(t, from+"/a", random(1, 5000))
		write(t, from+"/b", random(2, 8<<20))
		write(t, from+"/c", random(3, 5000))
		write(t, from+"/d/file", nil)
		gate := func(n int64) error {
			switch n {
			case 5000: // while a is written
				do(t, os.Remove(from+"/c"), os.RemoveAll(from+"/d"))
			case 512 << 10:
				do(t, os.Truncate(from+"/b", shorter))
			}
			return nil
		}
		return from, to, tree.Options{Gate: gate}
	}
	t.Run("expected", func(t *testing.T) {
		from, to, o := setup(t)
		o.Live = true
		done, err := tree.Sync(t.Context(), from, to, o)
		do(t, err)
		want := []string{from + "/c", from + "/d"}
		if !cmp.Equal(done.Vanished, want) || done.Unreadable != nil {
			t.Errorf("vanished %q, unreadable %q", done.Vanished, done.Unreadable)
		}
		data, err := os.ReadFile(to + "/b")
		if err != nil || string(data) != string(random(2, shorter)) {
			t.Errorf("%d bytes of b, %v", len(data), err)
		}
	})
	t.Run("not expected", func(t *testing.T) {
		from, to, o := setup(t)
		done, err := tree.Sync(t.Context(), from, to, o)
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

// as runs fn with the rights of a user who is not root, which for files are those of this thread.
func as(t *testing.T, uid int, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, err := unix.SetfsuidRetUid(uid)
	do(t, err)
	defer func() { do(t, unix.Setfsuid(0)) }()
	fn()
}

func TestUnreadable(t *testing.T) {
	from, to := trees(t)
	do(t, os.Chmod(filepath.Dir(filepath.Dir(from)), 0o755)) // above it, t.TempDir lets in root only
	write(t, from+"/closed", []byte("closed"))
	write(t, from+"/kept", []byte("closed, too"))
	write(t, from+"/open", []byte("open"))
	write(t, from+"/dir/file", nil)
	write(t, to+"/dir/old", nil)
	write(t, to+"/kept", []byte("old"))
	for _, top := range []string{from, to} {
		for path := range describe(t, top) {
			do(t, os.Chown(filepath.Join(top, path), 1000, 0))
		}
	}
	for _, name := range []string{"closed", "kept", "dir"} {
		do(t, os.Chmod(filepath.Join(from, name), 0), os.Chown(filepath.Join(from, name), 0, 0))
	}
	var done tree.Done
	var err error
	as(t, 1000, func() { done, err = tree.Sync(t.Context(), from, to, tree.Options{Live: true}) })
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
	if want := map[string]string{"open": "open", "kept": "old", "dir/old": "", "closed": "missing"}; !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// What cannot be opened while extra files are deleted, and can afterwards, keeps its own: it is reported.
func TestReadableAgain(t *testing.T) {
	from, to := trees(t)
	do(t, os.Chmod(filepath.Dir(filepath.Dir(from)), 0o755)) // above it, t.TempDir lets in root only
	write(t, from+"/above/dir/file", []byte("new"))
	write(t, to+"/above/dir/extra", nil)
	write(t, from+"/later/file", nil)
	write(t, to+"/later/extra", nil) // the first thing that is deleted, when above has been looked at
	for _, top := range []string{from, to} {
		for path := range describe(t, top) {
			do(t, os.Chown(filepath.Join(top, path), 1000, 0))
		}
	}
	do(t, os.Chmod(from+"/above", 0o400)) // its names can be listed, and not opened
	open := func(int64) error { return os.Chmod(from+"/above", 0o755) }
	var done tree.Done
	var err error
	as(t, 1000, func() { done, err = tree.Sync(t.Context(), from, to, tree.Options{Gate: open}) })
	do(t, err)
	if want := []string{from + "/above/dir"}; !cmp.Equal(done.Unreadable, want) {
		t.Errorf("unreadable %q, want %q", done.Unreadable, want)
	}
	if _, err := os.Stat(to + "/above/dir/file"); err != nil {
		t.Errorf("it was not readable again, so this proves nothing: %v", err)
	}
}

func TestMounts(t *testing.T) {
	from, to := trees(t)
	for _, top := range []string{from, to} {
		for _, dir := range []string{"device", "bound", "plain", "target"} {
			do(t, os.Mkdir(filepath.Join(top, dir), 0o755))
		}
	}
	other := t.TempDir()
	write(t, other+"/elsewhere", []byte("x"))
	write(t, to+"/device/kept", nil)
	write(t, to+"/bound/kept", nil)
	write(t, from+"/plain/file", nil)
	write(t, from+"/target/new", nil)
	do(t, os.Mkdir(to+"/deleted", 0o755))
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		do(t, unix.Mount(source, target, kind, flags, ""))
		t.Cleanup(func() { do(t, unix.Unmount(target, 0)) })
	}
	mount("tmpfs", from+"/device", "tmpfs", 0)
	write(t, from+"/device/not", nil)
	mount(other, from+"/bound", "", unix.MS_BIND) // on the same device
	mount(other, to+"/target", "", unix.MS_BIND)
	mount(other, to+"/deleted", "", unix.MS_BIND)
	date(t, from+"/device", 9, 9)
	date(t, from+"/target", 9, 9)

	before := describe(t, other)
	done, err := tree.Sync(t.Context(), from, to, tree.Options{OneFileSystem: true})
	do(t, err)
	if want := []string{to + "/deleted: a mount point, left as it is"}; !cmp.Equal(done.Warnings, want) {
		t.Errorf("warnings %q", done.Warnings)
	}
	if diff := cmp.Diff(before, describe(t, other)); diff != "" {
		t.Error("written through a mount point:\n" + diff)
	}
	if again, err := tree.Sync(t.Context(), from, to, tree.Options{OneFileSystem: true}); err != nil || !again.Same() {
		t.Errorf("a second run: %+v, %v", again, err)
	}
	for name, want := range map[string]bool{"device/kept": true, "bound/kept": true, "plain/file": true, "device/not": false, "bound/elsewhere": false} {
		if _, err := os.Lstat(filepath.Join(to, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := os.Lstat(to + "/device"); err != nil || st.ModTime().Unix() != 9 {
		t.Errorf("the directory of a mount is made like it: %v, %v", st.ModTime(), err)
	}

	do(t, os.Remove(from+"/target/new"), os.Remove(from+"/target"), os.WriteFile(from+"/target", nil, 0o644))
	done, err = tree.Sync(t.Context(), from, to, tree.Options{OneFileSystem: true})
	if want := to + "/target: a mount point, left as it is"; err != nil || !slices.Contains(done.Warnings, want) {
		t.Errorf("a mount point in the way: %v, %q", err, done.Warnings)
	}
	_, err = tree.Sync(t.Context(), from, to, tree.Options{})
	if f := fault.Of(err); f == nil || f.Code != fault.Busy || !strings.Contains(f.Hint, "findmnt") {
		t.Errorf("a mount point in the way: %v", err)
	}
}

// A file system without a place for an attribute is a failure that says so, never a loss in silence.
func TestAttributeThatCannotBeHeld(t *testing.T) {
	from, _ := trees(t)
	write(t, from+"/f", []byte("x"))
	do(t, unix.Setxattr(from+"/f", "user.big", make([]byte, 3000), 0))
	to := t.TempDir()
	do(t, unix.Mount("ramfs", to, "ramfs", 0, ""))
	t.Cleanup(func() { do(t, unix.Unmount(to, 0)) })
	_, err := tree.Sync(t.Context(), from, to, tree.Options{})
	if f := fault.Of(err); f == nil || f.Code != fault.Unsupported || !strings.Contains(f.Msg, "set the attribute user.big of "+to+"/f") {
		t.Errorf("got %v", err)
	}
	// The other way round nothing is known of the attributes, and they stay.
	do(t, os.WriteFile(to+"/f", []byte("y"), 0o644))
	_, err = tree.Sync(t.Context(), to, from, tree.Options{})
	do(t, err)
	if got := attributes(t, from+"/f"); !strings.HasPrefix(got, "user.big=") {
		t.Errorf("attributes %q", got)
	}
}
