package tree_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

// linkGroups lists the files of a tree: each element has the names of one file, which are hard links of each other.
type linkGroups [][]string

func (f linkGroups) make(t *testing.T, top string, data func(group int) []byte) {
	t.Helper()
	for i, group := range f {
		write(t, filepath.Join(top, group[0]), data(i))
		for _, name := range group[1:] {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(top, name)), 0o755),
				os.Link(filepath.Join(top, group[0]), filepath.Join(top, name)))
		}
	}
}

func TestHardLinksAreReproduced(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		from, to linkGroups
		written  int64 // bytes, if all files have the same content of 5000 bytes
	}{
		{"same", linkGroups{{"a", "d/b", "c"}}, linkGroups{{"a", "d/b", "c"}}, 0},
		{"joined", linkGroups{{"a", "b", "c"}}, linkGroups{{"a"}, {"b"}, {"c"}}, 0},
		{"split", linkGroups{{"a"}, {"b"}, {"c"}}, linkGroups{{"a", "b", "c"}}, 10000},
		{"one is split off", linkGroups{{"a", "b"}, {"c"}}, linkGroups{{"a", "b", "c"}}, 5000},
		{"one is deleted", linkGroups{{"a", "b"}}, linkGroups{{"a", "b", "c"}}, 0},
		{"regrouped", linkGroups{{"a", "b"}, {"c", "d"}}, linkGroups{{"a", "c"}, {"b", "d"}}, 5000},
		{"all in one", linkGroups{{"a", "b"}, {"c", "d"}}, linkGroups{{"a", "b", "c", "d"}}, 10000},
		{"the first is missing", linkGroups{{"a", "z/b"}}, linkGroups{{"z/b"}}, 5000},
		{"a directory in the way", linkGroups{{"a", "b"}}, linkGroups{{"b/x"}, {"a"}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name+", equal", func(t *testing.T) {
			from, to := emptyTrees(t)
			same := func(int) []byte { return randomBytes(1, 5000) }
			tt.from.make(t, from, same)
			tt.to.make(t, to, same)
			if done := syncAndVerify(t, from, to, tree.Options{}); done.Written != tt.written {
				t.Errorf("%d bytes expected: %+v", tt.written, done)
			}
		})
		t.Run(tt.name+", different", func(t *testing.T) {
			from, to := emptyTrees(t)
			tt.from.make(t, from, func(group int) []byte { return randomBytes(group, 5000+group) })
			tt.to.make(t, to, func(group int) []byte { return randomBytes(10+group, 6000) })
			syncAndVerify(t, from, to, tree.Options{})
		})
	}
}

// A file of `to` that has another hard link outside `to` is not written, however its pair in `from` differs.
func TestFileWithNameOutsideIsNotWritten(t *testing.T) {
	t.Parallel()
	change := map[string]func(*testing.T, string){
		"content":   func(t *testing.T, path string) { must(t, os.WriteFile(path, randomBytes(2, 9000), 0o644)) },
		"shorter":   func(t *testing.T, path string) { must(t, os.Truncate(path, 10)) },
		"mode":      func(t *testing.T, path string) { must(t, os.Chmod(path, 0o600)) },
		"owner":     func(t *testing.T, path string) { must(t, os.Chown(path, 1, 1)) },
		"time":      func(t *testing.T, path string) { setMtime(t, path, 5, 5) },
		"attribute": func(t *testing.T, path string) { must(t, unix.Setxattr(path, "user.a", []byte("b"), 0)) },
		"linked":    func(t *testing.T, path string) { must(t, os.Link(path, path+"2"), os.Truncate(path, 10)) },
	}
	for name, fn := range change {
		t.Run(name, func(t *testing.T) {
			from, to := equalTrees(t, map[string][]byte{"f": randomBytes(1, 3<<20)})
			outside := t.TempDir()
			must(t, os.Link(to+"/f", outside+"/f"))
			before := describe(t, outside)
			if done, err := tree.Sync(t.Context(), from, to, tree.Options{}); err != nil || !done.Same() {
				t.Errorf("an equal file is left as it is: %+v, %v", done, err)
			}
			fn(t, from+"/f")
			syncAndVerify(t, from, to, tree.Options{})
			after := describe(t, outside)
			if before["f"] != after["f"] {
				t.Errorf("outside there was %s, now there is %s", before["f"], after["f"])
			}
		})
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Ino
}

func TestSameFilesAreLinkedToOlderTree(t *testing.T) {
	from, first := emptyTrees(t)
	fillWithEveryKind(t, from)
	for _, name := range []string{"same", "dir/same", "content", "mode", "attribute", "touched"} {
		write(t, filepath.Join(from, name), randomBytes(1, 5000))
		setMtime(t, filepath.Join(from, name), 7, 7)
	}
	syncAndVerify(t, from, first, tree.Options{})
	before := describe(t, first)

	must(t, os.WriteFile(from+"/content", randomBytes(2, 5000), 0o644), os.Chmod(from+"/mode", 0o600),
		unix.Setxattr(from+"/attribute", "user.a", nil, 0))
	setMtime(t, from+"/content", 7, 7) // as if it had not been written
	setMtime(t, from+"/touched", 8, 8)
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.Mkdir(second, 0o755))
	done := syncAndVerify(t, from, second, tree.Options{Link: first})
	for name, want := range map[string]bool{
		"same": true, "dir/same": true, "a/program": true, "sparse": true, "three": true, "0/deep/two": true,
		"content": false, "mode": false, "attribute": false, "touched": false,
	} {
		if got := inode(t, filepath.Join(first, name)) == inode(t, filepath.Join(second, name)); got != want {
			t.Errorf("%s: shared with the older tree: %v", name, got)
		}
	}
	if done.Written != 4*5000 {
		t.Errorf("four files were to be written: %+v", done)
	}
	if after := describe(t, first); !maps.Equal(before, after) {
		t.Error("the older tree is not what it was")
	}

	// Another Sync into the second tree does not write the files that it shares with the first one.
	must(t, os.WriteFile(from+"/same", randomBytes(3, 4000), 0o600))
	middle := describe(t, first)
	syncAndVerify(t, from, second, tree.Options{})
	if after := describe(t, first); !maps.Equal(middle, after) {
		t.Error("the older tree was changed under another name")
	}
}

// Two files of `from` that share one file in the older tree stay two files.
func TestFilesLinkedInOlderTreeOnlyStayTwo(t *testing.T) {
	from, first := emptyTrees(t)
	linkGroups{{"a", "b", "c"}}.make(t, from, func(int) []byte { return randomBytes(1, 5000) })
	setMtime(t, from+"/a", 7, 7)
	syncAndVerify(t, from, first, tree.Options{})
	must(t, os.Remove(from+"/b"), os.WriteFile(from+"/b", randomBytes(1, 5000), 0o644))
	setMtime(t, from+"/b", 7, 7)
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.Mkdir(second, 0o755))
	syncAndVerify(t, from, second, tree.Options{Link: first})
	if inode(t, second+"/a") != inode(t, first+"/a") || inode(t, second+"/b") == inode(t, first+"/a") {
		t.Error("a is to be shared with the older tree, and b is not")
	}
}

// Files of which Unchanged reports that they are unchanged are linked to the older tree without being read.
func TestUnchangedFilesAreLinkedUnread(t *testing.T) {
	from, first := equalTrees(t, map[string][]byte{"old": randomBytes(1, 5000)})
	unchanged := unchangedSince(t, from)
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.Mkdir(second, 0o755))
	done, err := tree.Sync(t.Context(), from, second, tree.Options{Link: first, Unchanged: unchanged})
	must(t, err)
	assertEqual(t, from, second)
	if done.Compared != 0 || done.Linked != 1 {
		t.Errorf("unchanged: %+v", done)
	}

	overwriteKeepingMtime(t, from+"/old", 0)
	third := filepath.Join(t.TempDir(), "third")
	must(t, os.Mkdir(third, 0o755))
	done, err = tree.Sync(t.Context(), from, third, tree.Options{Link: second, Unchanged: unchanged})
	must(t, err)
	assertEqual(t, from, third)
	if done.Written != 5000 {
		t.Errorf("changed, with its mtime set back: %+v", done)
	}
}

// Files of the older tree whose ctime is later than the present time, because the clock was set back, are linked, too.
func TestFilesWithFutureCtimeAreLinked(t *testing.T) {
	from, first := equalTrees(t, map[string][]byte{"a": randomBytes(1, 5000), "b": randomBytes(2, 5000)})
	second := filepath.Join(t.TempDir(), "second")
	must(t, os.Mkdir(second, 0o755))
	// The older tree's second file gets a ctime that is later than the beginning of this Sync.
	touch := func(int64) error { return os.Chmod(first+"/b", 0o644) }
	done, err := tree.Sync(t.Context(), from, second, tree.Options{Link: first, Gate: touch})
	must(t, err)
	if done.Linked != 2 {
		t.Errorf("%+v", done)
	}
	assertEqual(t, from, second)
}

// Files of another file system cannot be linked to, so they are copied.
func TestCopiesIfOlderTreeIsOnAnotherFileSystem(t *testing.T) {
	from, first := equalTrees(t, map[string][]byte{"f": randomBytes(1, 5000)})
	to := tmpfs(t, "1m")
	done := syncAndVerify(t, from, to, tree.Options{Link: first})
	if done.Created != 1 || done.Linked != 0 {
		t.Errorf("%+v", done)
	}
}

// A file of which no hard link can be made in some directory, or which has as many as its file system allows, is copied
// there once. Its other links there are links of that copy, and a warning names the copy.
func TestLinksThatCannotBeMadeAreLinkedAmongThemselves(t *testing.T) {
	from, to := emptyTrees(t)
	linkGroups{{"a", "d/b", "d/c", "d/d"}}.make(t, from, func(int) []byte { return randomBytes(1, 5000) })
	must(t, os.Mkdir(to+"/d", 0o755), unix.Mount("tmpfs", to+"/d", "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(to+"/d", 0)) })
	done, err := tree.Sync(t.Context(), from, to, tree.Options{})
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(to+"/d/b", &st))
	if st.Nlink != 3 || done.Written != 2*5000 {
		t.Errorf("d/b has %d links: %+v", st.Nlink, done)
	}
	if len(done.Warnings) != 1 || !strings.HasPrefix(done.Warnings[0], from+"/d/b: ") ||
		!strings.Contains(done.Warnings[0], "no hard link to a ") {
		t.Errorf("warnings %q", done.Warnings)
	}
}

// A file of the older tree that has nearly as many links as ext4 allows is copied instead of linked to, so that the
// hard links of `from` stay links of one file.
func TestFullFileOfOlderTreeIsNotLinkedTo(t *testing.T) {
	from, _ := emptyTrees(t)
	linkGroups{{"a", "b"}}.make(t, from, func(int) []byte { return randomBytes(1, 5000) })
	top := tmpfs(t, "64m")
	older, to := top+"/older", top+"/to"
	must(t, os.Mkdir(older, 0o755), os.Mkdir(to, 0o755), os.Mkdir(top+"/others", 0o755))
	_, err := tree.Sync(t.Context(), from, older, tree.Options{})
	must(t, err)
	for i := 2; i < 64999; i++ {
		must(t, os.Link(older+"/a", fmt.Sprintf("%s/others/%d", top, i)))
	}
	done := syncAndVerify(t, from, to, tree.Options{Link: older})
	var st unix.Stat_t
	must(t, unix.Stat(to+"/b", &st))
	if st.Nlink != 2 || done.Created != 1 || done.Linked != 1 {
		t.Errorf("%d links: %+v", st.Nlink, done)
	}
}

// Another program replaces a file before its second hard link is made.
func TestFileReplacedBeforeItIsLinkedIsBusy(t *testing.T) {
	from, to := emptyTrees(t)
	linkGroups{{"a", "b"}}.make(t, from, func(int) []byte { return randomBytes(1, 5000) })
	other := t.TempDir() + "/other"
	write(t, other, []byte("other"))
	changes := 0
	_, err := tree.Sync(t.Context(), from, to, tree.Options{Gate: func(n int64) error {
		if n == tree.Block {
			changes++
		}
		if changes == 2 { // after a, for b
			must(t, os.Rename(other, to+"/a"))
		}
		return nil
	}})
	if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), to+"/b was changed by another program") {
		t.Errorf("got %v", err)
	}
}
