package tree_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

// FS_IMMUTABLE_FL, FS_APPEND_FL and FS_NODUMP_FL of include/uapi/linux/fs.h.
const immutable, appendOnly, noDump = 0x10, 0x20, 0x40

func chattr(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	must(t, err)
	defer f.Close()
	have, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	must(t, err)
	have = have&^(immutable|appendOnly|noDump) | flags
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, have))
}

// lsattr returns the letters of the flags of every file and directory that has some, by path relative to top.
func lsattr(t *testing.T, top string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	must(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		letters := ""
		for _, k := range []struct {
			flag   int
			letter string
		}{{immutable, "i"}, {appendOnly, "a"}, {noDump, "d"}} {
			if flags&k.flag != 0 {
				letters += k.letter
			}
		}
		if letters != "" {
			seen[strings.TrimPrefix(strings.TrimPrefix(path, top), "/")] = letters
		}
		return err
	}))
	return seen
}

// flaggedTrees returns two empty trees, in which all inode flags are cleared at the end of the test, so that the trees
// can be removed.
func flaggedTrees(t *testing.T) (from, to string) {
	from, to = emptyTrees(t)
	for _, top := range []string{from, to} {
		t.Cleanup(func() {
			for name := range lsattr(t, top) {
				chattr(t, filepath.Join(top, name), 0)
			}
		})
	}
	return from, to
}

func writeFiles(t *testing.T, top string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(top, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		write(t, path, []byte(content))
	}
}

// treesWithFlags makes two different trees. The flags of the entries of `to` forbid every change that would make the
// trees equal. It returns the flags that `to` is to have when the trees are equal.
func treesWithFlags(t *testing.T) (from, to string, flags map[string]string) {
	from, to = flaggedTrees(t)
	large := strings.Repeat("x", 2<<20)
	writeFiles(t, from, map[string]string{
		"immutable": "new", "append": "new", "same": "same", "mode": "same", "dir/made": "new", "dir/kept": "same",
		"log/kept": "same", "large": "short", "pair": "pair", "outside": "new",
	})
	must(t, os.Link(filepath.Join(from, "pair"), filepath.Join(from, "second")))
	must(t, os.Chmod(filepath.Join(from, "mode"), 0o600))
	writeFiles(t, to, map[string]string{
		"immutable": "old!", "append": "older", "same": "same", "mode": "same", "dir/gone": "old", "dir/kept": "same",
		"log/gone": "old", "log/kept": "same", "large": large, "pair": "pair", "outside": "old", "gone/gone": "old",
	})
	must(t, os.Link(filepath.Join(to, "outside"), filepath.Join(t.TempDir(), "other")))
	set := map[string]int{
		"immutable": immutable, "append": appendOnly | noDump, "same": immutable, "mode": appendOnly,
		"dir/gone": immutable, "dir": immutable, "log/gone": appendOnly, "log": appendOnly,
		"large": immutable, "pair": immutable, "outside": immutable, "gone/gone": immutable, "gone": immutable,
	}
	for name, f := range set {
		if name != "dir" && name != "log" && name != "gone" {
			chattr(t, filepath.Join(to, name), f)
		}
	}
	for _, dir := range []string{"dir", "log", "gone"} {
		chattr(t, filepath.Join(to, dir), set[dir])
	}
	return from, to, map[string]string{
		"immutable": "i", "append": "ad", "same": "i", "mode": "a", "dir": "i", "log": "a", "large": "i", "pair": "i",
		"second": "i", "outside": "i",
	}
}

// With Unlock, immutable and append-only entries are made equal too, and get their flags again.
func TestUnlockClearsFlagsAndSetsThemAgain(t *testing.T) {
	from, to, want := treesWithFlags(t)
	done, err := tree.Sync(t.Context(), from, to, tree.Options{Unlock: true})
	must(t, err)
	assertEqual(t, from, to)
	if diff := cmp.Diff(want, lsattr(t, to)); diff != "" {
		t.Errorf("the flags afterwards (-before +after):\n%s", diff)
	}
	if len(done.Flagged) != 13 {
		t.Errorf("had flags: %q", done.Flagged)
	}
	again, err := tree.Sync(t.Context(), from, to, tree.Options{Unlock: true})
	must(t, err)
	if !again.Same() {
		t.Errorf("the second time: %+v", again)
	}
}

// Options.Flags sets the flags that it returns and clears others.
func TestOptionsFlagsDecidesFlags(t *testing.T) {
	from, to, _ := treesWithFlags(t)
	writeFiles(t, from, map[string]string{"new/file": "new"})
	known := map[string]tree.Flags{
		"": tree.NoDump, "immutable": tree.AppendOnly, "append": tree.AppendOnly, "dir": tree.Immutable,
		"new": tree.AppendOnly, "new/file": tree.Immutable | tree.NoDump, "pair": tree.Immutable, "second": tree.Immutable,
	}
	opts := tree.Options{Unlock: true, Flags: func(rel string) tree.Flags { return known[rel] }}
	_, err := tree.Sync(t.Context(), from, to, opts)
	must(t, err)
	assertEqual(t, from, to)
	want := map[string]string{}
	for name, f := range known {
		want[name] = f.String()
	}
	if diff := cmp.Diff(want, lsattr(t, to)); diff != "" {
		t.Errorf("the flags afterwards (-known +set):\n%s", diff)
	}
	again, err := tree.Sync(t.Context(), from, to, opts)
	must(t, err)
	if !again.Same() {
		t.Errorf("the second time: %+v", again)
	}
	delete(known, "new")
	only, err := tree.Sync(t.Context(), from, to, opts)
	must(t, err)
	if only.Metadata != 1 || only.Written != 0 || lsattr(t, to)["new"] != "" {
		t.Errorf("to take away one flag: %+v", only)
	}
}

func TestImmutableFileFailsWithoutUnlock(t *testing.T) {
	from, to := flaggedTrees(t)
	writeFiles(t, from, map[string]string{"file": "new"})
	writeFiles(t, to, map[string]string{"file": "old!"})
	chattr(t, filepath.Join(to, "file"), immutable)
	_, err := tree.Sync(t.Context(), from, to, tree.Options{})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(fault.Of(err).Hint, "lsattr -d "+filepath.Join(to, "file")) {
		t.Errorf("got %v, hint %q", err, fault.Of(err).Hint)
	}
	if got := lsattr(t, to); !maps.Equal(got, map[string]string{"file": "i"}) {
		t.Errorf("flags afterwards: %v", got)
	}
}

func TestFlaggedIsToldOfFlagsInFrom(t *testing.T) {
	from, to := flaggedTrees(t)
	writeFiles(t, from, map[string]string{"a": "a", "dir/b": "b", "plain": ""})
	chattr(t, filepath.Join(from, "a"), immutable|noDump)
	chattr(t, filepath.Join(from, "dir/b"), appendOnly)
	chattr(t, filepath.Join(from, "dir"), immutable)
	chattr(t, from, noDump)
	got := map[string]string{}
	opts := tree.Options{Flagged: func(rel string, f tree.Flags) { got[rel] = f.String() }}
	_, err := tree.Sync(t.Context(), from, to, opts)
	must(t, err)
	if diff := cmp.Diff(lsattr(t, from), got); diff != "" {
		t.Error(diff)
	}
}

// The flags of a file count also if it becomes a hard link to the copy in an older backup, or to another new file.
func TestFlaggedIsToldOfFilesThatBecomeLinks(t *testing.T) {
	from, older := flaggedTrees(t)
	newer := filepath.Join(filepath.Dir(older), "newer")
	must(t, os.Mkdir(newer, 0o700))
	writeFiles(t, from, map[string]string{"a": "a", "b": "b"})
	must(t, os.Link(filepath.Join(from, "b"), filepath.Join(from, "b2")))
	chattr(t, filepath.Join(from, "a"), immutable)
	chattr(t, filepath.Join(from, "b"), appendOnly)
	_, err := tree.Sync(t.Context(), from, older, tree.Options{})
	must(t, err)
	got := map[string]string{}
	done, err := tree.Sync(t.Context(), from, newer, tree.Options{
		Link:      older,
		Unchanged: func(string, *unix.Statx_t) bool { return true },
		Flagged:   func(rel string, f tree.Flags) { got[rel] = f.String() },
	})
	must(t, err)
	if done.Linked == 0 {
		t.Error("nothing became a link")
	}
	if diff := cmp.Diff(map[string]string{"a": "i", "b": "a", "b2": "a"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseFlags(t *testing.T) {
	for _, f := range []tree.Flags{0, tree.Immutable, tree.Immutable | tree.NoDump, tree.AppendOnly} {
		if got, err := tree.ParseFlags(f.String()); err != nil || got != f {
			t.Errorf("%v became %v, %v", f, got, err)
		}
	}
	if _, err := tree.ParseFlags("ix"); err == nil {
		t.Error("what is no flag was taken for one")
	}
}

// Only files and directories are given flags. A new symbolic link, FIFO or device node has what its directory passes on
// (chattr +d), but nobody can set flags of it, and to open a device may start it.
func TestFlagsOfReplacedSpecialFilesAreNotSet(t *testing.T) {
	from, to := flaggedTrees(t)
	chattr(t, to, noDump)
	null, zero := int(unix.Mkdev(1, 3)), int(unix.Mkdev(1, 5))
	must(t, os.Symlink("new", from+"/link"), os.Symlink("old", to+"/link"),
		unix.Mknod(from+"/device", unix.S_IFCHR|0o600, null), unix.Mknod(to+"/device", unix.S_IFCHR|0o600, zero))
	for range 2 {
		done, err := tree.Sync(t.Context(), from, to, tree.Options{Unlock: true})
		must(t, err)
		if len(done.Warnings) > 0 {
			t.Errorf("warnings %q", done.Warnings)
		}
	}
	assertEqual(t, from, to)
}
