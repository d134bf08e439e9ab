package tree_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

// family is a list of names: those that share a file stand together.
type family [][]string

func (f family) make(t *testing.T, top string, data func(group int) []byte) {
	t.Helper()
	for i, group := range f {
		write(t, filepath.Join(top, group[0]), data(i))
		for _, name := range group[1:] {
			do(t, os.MkdirAll(filepath.Dir(filepath.Join(top, name)), 0o755),
				os.Link(filepath.Join(top, group[0]), filepath.Join(top, name)))
		}
	}
}

func TestHardLinks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		from, to family
		written  int64 // where the contents are the same everywhere; each file is 5000 bytes long
	}{
		{"same", family{{"a", "d/b", "c"}}, family{{"a", "d/b", "c"}}, 0},
		{"joined", family{{"a", "b", "c"}}, family{{"a"}, {"b"}, {"c"}}, 0},
		{"parted", family{{"a"}, {"b"}, {"c"}}, family{{"a", "b", "c"}}, 10000},
		{"one leaves", family{{"a", "b"}, {"c"}}, family{{"a", "b", "c"}}, 5000},
		{"one leaves for good", family{{"a", "b"}}, family{{"a", "b", "c"}}, 0},
		{"regrouped", family{{"a", "b"}, {"c", "d"}}, family{{"a", "c"}, {"b", "d"}}, 5000},
		{"all in one", family{{"a", "b"}, {"c", "d"}}, family{{"a", "b", "c", "d"}}, 10000},
		{"the first is missing", family{{"a", "z/b"}}, family{{"z/b"}}, 5000},
		{"a directory in the way", family{{"a", "b"}}, family{{"b/x"}, {"a"}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name+", equal", func(t *testing.T) {
			from, to := trees(t)
			same := func(int) []byte { return random(1, 5000) }
			tt.from.make(t, from, same)
			tt.to.make(t, to, same)
			if done := sync(t, from, to, tree.Options{}); done.Written != tt.written {
				t.Errorf("%d bytes expected: %+v", tt.written, done)
			}
		})
		t.Run(tt.name+", different", func(t *testing.T) {
			from, to := trees(t)
			tt.from.make(t, from, func(group int) []byte { return random(group, 5000+group) })
			tt.to.make(t, to, func(group int) []byte { return random(10+group, 6000) })
			sync(t, from, to, tree.Options{})
		})
	}
}

// A file that has another name outside is not written, whatever its pair is like.
func TestNamesOutsideAreSafe(t *testing.T) {
	t.Parallel()
	change := map[string]func(*testing.T, string){
		"content":   func(t *testing.T, path string) { do(t, os.WriteFile(path, random(2, 9000), 0o644)) },
		"shorter":   func(t *testing.T, path string) { do(t, os.Truncate(path, 10)) },
		"mode":      func(t *testing.T, path string) { do(t, os.Chmod(path, 0o600)) },
		"owner":     func(t *testing.T, path string) { do(t, os.Chown(path, 1, 1)) },
		"time":      func(t *testing.T, path string) { date(t, path, 5, 5) },
		"attribute": func(t *testing.T, path string) { do(t, unix.Setxattr(path, "user.a", []byte("b"), 0)) },
		"linked":    func(t *testing.T, path string) { do(t, os.Link(path, path+"2"), os.Truncate(path, 10)) },
	}
	for name, fn := range change {
		t.Run(name, func(t *testing.T) {
			from, to := twins(t, map[string][]byte{"f": random(1, 3<<20)})
			outside := t.TempDir()
			do(t, os.Link(to+"/f", outside+"/f"))
			before := describe(t, outside)
			if done, err := tree.Sync(t.Context(), from, to, tree.Options{}); err != nil || !done.Same() {
				t.Errorf("an equal file is left as it is: %+v, %v", done, err)
			}
			fn(t, from+"/f")
			sync(t, from, to, tree.Options{})
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
	do(t, unix.Lstat(path, &st))
	return st.Ino
}

func TestOlderTree(t *testing.T) {
	from, first := trees(t)
	tricky(t, from)
	for _, name := range []string{"same", "dir/same", "content", "mode", "attribute", "touched"} {
		write(t, filepath.Join(from, name), random(1, 5000))
		date(t, filepath.Join(from, name), 7, 7)
	}
	sync(t, from, first, tree.Options{})
	before := describe(t, first)

	do(t, os.WriteFile(from+"/content", random(2, 5000), 0o644), os.Chmod(from+"/mode", 0o600), unix.Setxattr(from+"/attribute", "user.a", nil, 0))
	date(t, from+"/content", 7, 7) // as if it had not been written
	date(t, from+"/touched", 8, 8)
	second := filepath.Join(t.TempDir(), "second")
	do(t, os.Mkdir(second, 0o755))
	done := sync(t, from, second, tree.Options{Link: first})
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

	// The next one changes nothing of what it shares with the older ones.
	do(t, os.WriteFile(from+"/same", random(3, 4000), 0o600))
	middle := describe(t, first)
	sync(t, from, second, tree.Options{})
	if after := describe(t, first); !maps.Equal(middle, after) {
		t.Error("the older tree was changed under another name")
	}
}

// Two files of `from` that were one in the older tree stay two.
func TestOlderTreeDoesNotJoin(t *testing.T) {
	from, first := trees(t)
	family{{"a", "b", "c"}}.make(t, from, func(int) []byte { return random(1, 5000) })
	date(t, from+"/a", 7, 7)
	sync(t, from, first, tree.Options{})
	do(t, os.Remove(from+"/b"), os.WriteFile(from+"/b", random(1, 5000), 0o644))
	date(t, from+"/b", 7, 7)
	second := filepath.Join(t.TempDir(), "second")
	do(t, os.Mkdir(second, 0o755))
	sync(t, from, second, tree.Options{Link: first})
	if inode(t, second+"/a") != inode(t, first+"/a") || inode(t, second+"/b") == inode(t, first+"/a") {
		t.Error("a is to be shared with the older tree, and b is not")
	}
}

// Files of which it is known that nothing has touched them are linked unread.
func TestOlderTreeUnchanged(t *testing.T) {
	from, first := twins(t, map[string][]byte{"old": random(1, 5000)})
	unchanged := asItIs(t, from)
	second := filepath.Join(t.TempDir(), "second")
	do(t, os.Mkdir(second, 0o755))
	done, err := tree.Sync(t.Context(), from, second, tree.Options{Link: first, Unchanged: unchanged})
	do(t, err)
	equal(t, from, second)
	if done.Compared != 0 || done.Linked != 1 {
		t.Errorf("untouched: %+v", done)
	}

	forge(t, from+"/old", 0)
	third := filepath.Join(t.TempDir(), "third")
	do(t, os.Mkdir(third, 0o755))
	done, err = tree.Sync(t.Context(), from, third, tree.Options{Link: second, Unchanged: unchanged})
	do(t, err)
	equal(t, from, third)
	if done.Written != 5000 {
		t.Errorf("touched, with its date set back: %+v", done)
	}
}

// Files of the older tree whose times of change lie ahead of the clock, which was set back since, are linked all the
// same.
func TestOlderTreeOfTheFuture(t *testing.T) {
	from, first := twins(t, map[string][]byte{"a": random(1, 5000), "b": random(2, 5000)})
	second := filepath.Join(t.TempDir(), "second")
	do(t, os.Mkdir(second, 0o755))
	// The older tree's second file gets a time of change that is later than the beginning of this run.
	touch := func(int64) error { return os.Chmod(first+"/b", 0o644) }
	done, err := tree.Sync(t.Context(), from, second, tree.Options{Link: first, Gate: touch})
	do(t, err)
	if done.Linked != 2 {
		t.Errorf("%+v", done)
	}
	equal(t, from, second)
}

// A file system that cannot link further gets a copy.
func TestOlderTreeOnAnotherFileSystem(t *testing.T) {
	from, first := twins(t, map[string][]byte{"f": random(1, 5000)})
	to := tmpfs(t, "1m")
	done := sync(t, from, to, tree.Options{Link: first})
	if done.Created != 1 || done.Linked != 0 {
		t.Errorf("%+v", done)
	}
}

// Another program puts something else in the place of a file before its second name is made.
func TestFirstNameSwapped(t *testing.T) {
	from, to := trees(t)
	family{{"a", "b"}}.make(t, from, func(int) []byte { return random(1, 5000) })
	other := t.TempDir() + "/other"
	write(t, other, []byte("other"))
	changes := 0
	_, err := tree.Sync(t.Context(), from, to, tree.Options{Gate: func(n int64) error {
		if n == tree.Block {
			changes++
		}
		if changes == 2 { // after a, for b
			do(t, os.Rename(other, to+"/a"))
		}
		return nil
	}})
	if !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), to+"/b was changed by another program") {
		t.Errorf("got %v", err)
	}
}
