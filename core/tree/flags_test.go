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

// The flags of inodes (include/uapi/linux/fs.h).
const immutable, appendOnly, noDump = 0x10, 0x20, 0x40

func chattr(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	do(t, err)
	defer f.Close()
	have, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	do(t, err)
	have = have&^(immutable|appendOnly|noDump) | flags
	do(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, have))
}

// lsattr returns the letters of every file and directory that has flags.
func lsattr(t *testing.T, top string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	do(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
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

// flaggedTrees are two trees that the test can remove at its end.
func flaggedTrees(t *testing.T) (from, to string) {
	from, to = trees(t)
	for _, top := range []string{from, to} {
		t.Cleanup(func() {
			for name := range lsattr(t, top) {
				chattr(t, filepath.Join(top, name), 0)
			}
		})
	}
	return from, to
}

func place(t *testing.T, top string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(top, name)
		do(t, os.MkdirAll(filepath.Dir(path), 0o755))
		write(t, path, []byte(content))
	}
}

// guarded makes both trees, with flags in `to` that forbid every change which makes them equal.
func guarded(t *testing.T) (from, to string, flags map[string]string) {
	from, to = flaggedTrees(t)
	large := strings.Repeat("x", 2<<20)
	place(t, from, map[string]string{
		"immutable": "new", "append": "new", "same": "same", "mode": "same", "dir/made": "new", "dir/kept": "same",
		"log/kept": "same", "large": "short", "pair": "pair", "outside": "new",
	})
	do(t, os.Link(filepath.Join(from, "pair"), filepath.Join(from, "second")))
	do(t, os.Chmod(filepath.Join(from, "mode"), 0o600))
	place(t, to, map[string]string{
		"immutable": "old!", "append": "older", "same": "same", "mode": "same", "dir/gone": "old", "dir/kept": "same",
		"log/gone": "old", "log/kept": "same", "large": large, "pair": "pair", "outside": "old", "gone/gone": "old",
	})
	do(t, os.Link(filepath.Join(to, "outside"), filepath.Join(t.TempDir(), "other")))
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

// Whatever is immutable or append-only is made equal all the same, and has its flags again.
func TestFlagsAreTakenAndSetAgain(t *testing.T) {
	from, to, want := guarded(t)
	done, err := tree.Sync(t.Context(), from, to, tree.Options{Unlock: true})
	do(t, err)
	equal(t, from, to)
	if diff := cmp.Diff(want, lsattr(t, to)); diff != "" {
		t.Errorf("the flags afterwards (-before +after):\n%s", diff)
	}
	if len(done.Flagged) != 13 {
		t.Errorf("had flags: %q", done.Flagged)
	}
	again, err := tree.Sync(t.Context(), from, to, tree.Options{Unlock: true})
	do(t, err)
	if !again.Same() {
		t.Errorf("the second time: %+v", again)
	}
}

// Flags that are known are set, and others taken away.
func TestFlagsThatAreKnown(t *testing.T) {
	from, to, _ := guarded(t)
	place(t, from, map[string]string{"new/file": "new"})
	known := map[string]tree.Flags{
		"": tree.NoDump, "immutable": tree.AppendOnly, "append": tree.AppendOnly, "dir": tree.Immutable,
		"new": tree.AppendOnly, "new/file": tree.Immutable | tree.NoDump, "pair": tree.Immutable, "second": tree.Immutable,
	}
	o := tree.Options{Unlock: true, Flags: func(rel string) tree.Flags { return known[rel] }}
	_, err := tree.Sync(t.Context(), from, to, o)
	do(t, err)
	equal(t, from, to)
	want := map[string]string{}
	for name, f := range known {
		want[name] = f.String()
	}
	if diff := cmp.Diff(want, lsattr(t, to)); diff != "" {
		t.Errorf("the flags afterwards (-known +set):\n%s", diff)
	}
	again, err := tree.Sync(t.Context(), from, to, o)
	do(t, err)
	if !again.Same() {
		t.Errorf("the second time: %+v", again)
	}
	delete(known, "new")
	only, err := tree.Sync(t.Context(), from, to, o)
	do(t, err)
	if only.Metadata != 1 || only.Written != 0 || lsattr(t, to)["new"] != "" {
		t.Errorf("to take away one flag: %+v", only)
	}
}

// In a tree that is not the caller's to unlock, whoever has set a flag means it.
func TestFlagsForbidWithoutUnlock(t *testing.T) {
	from, to := flaggedTrees(t)
	place(t, from, map[string]string{"file": "new"})
	place(t, to, map[string]string{"file": "old!"})
	chattr(t, filepath.Join(to, "file"), immutable)
	_, err := tree.Sync(t.Context(), from, to, tree.Options{})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(fault.Of(err).Hint, "lsattr -d "+filepath.Join(to, "file")) {
		t.Errorf("got %v, hint %q", err, fault.Of(err).Hint)
	}
	if got := lsattr(t, to); !maps.Equal(got, map[string]string{"file": "i"}) {
		t.Errorf("flags afterwards: %v", got)
	}
}

func TestFlagsOfFromAreTold(t *testing.T) {
	from, to := flaggedTrees(t)
	place(t, from, map[string]string{"a": "a", "dir/b": "b", "plain": ""})
	chattr(t, filepath.Join(from, "a"), immutable|noDump)
	chattr(t, filepath.Join(from, "dir/b"), appendOnly)
	chattr(t, filepath.Join(from, "dir"), immutable)
	chattr(t, from, noDump)
	got := map[string]string{}
	o := tree.Options{Flagged: func(rel string, f tree.Flags) { got[rel] = f.String() }}
	_, err := tree.Sync(t.Context(), from, to, o)
	do(t, err)
	if diff := cmp.Diff(lsattr(t, from), got); diff != "" {
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
