package tree_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/tree"
)

func TestEveryKindOfFileIsCopied(t *testing.T) {
	from, to := emptyTrees(t)
	fillWithEveryKind(t, from)
	var last tree.Progress
	done := syncAndVerify(t, from, to, tree.Options{Report: func(p tree.Progress) { last = p }})
	entries := int64(len(describe(t, from)) - 1)
	if done.Created+done.Linked != entries || done.Linked != 3 || done.Deleted+done.Changed != 0 || done.Metadata != 1 {
		t.Errorf("of %d entries: %+v", entries, done)
	}
	if last.Done != last.Total || last.Total != done.Bytes || last.Files != done.Files || done.Files == 0 {
		t.Errorf("the last report is %+v, at the end of %+v", last, done)
	}
	if size := allocated(t, filepath.Join(to, "sparse")); size > 8192+4096 {
		t.Errorf("of the sparse file %d bytes are allocated", size)
	}
	if done.Written > 64<<10 {
		t.Errorf("%d bytes written: the sparse file's holes are among them", done.Written)
	}
}

// Entries of `to` that are of another kind than their pairs in `from` are replaced.
func TestFilesOfAnotherKindAreReplaced(t *testing.T) {
	from, to := emptyTrees(t)
	fillWithEveryKind(t, from)
	other, _ := emptyTrees(t)
	fillWithEveryKind(t, other)
	for _, swap := range [][2]string{
		{"a", "three"}, {"null", "fifo"}, {"loop", "out"}, {"sparse", "b"}, {"-rf", "nothing"}, {"new\nline", "absolute"},
		{"0", "dangling"},
	} {
		a, b := filepath.Join(other, swap[0]), filepath.Join(other, swap[1])
		must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
	}
	_, err := tree.Sync(t.Context(), other, to, tree.Options{})
	must(t, err)
	if cmp.Equal(describe(t, from), describe(t, to)) {
		t.Fatal("the trees do not differ before the test")
	}
	syncAndVerify(t, from, to, tree.Options{})
}

// The roots may be paths below /proc/PID/root, which is how another process's files are reached.
func TestRootsBelowProcRoot(t *testing.T) {
	from, to := emptyTrees(t)
	fillWithEveryKind(t, from)
	syncAndVerify(t, fmt.Sprintf("/proc/%d/root%s", os.Getpid(), from), "/proc/self/root"+to, tree.Options{})
}

func TestDeepTree(t *testing.T) {
	t.Parallel()
	from, to := emptyTrees(t)
	const depth = 1000
	dir := from + strings.Repeat("/d", depth)
	must(t, os.MkdirAll(dir, 0o755))
	write(t, dir+"/file", []byte("bottom"))
	done, err := tree.Sync(t.Context(), from, to, tree.Options{})
	must(t, err)
	if done.Created != depth+1 {
		t.Errorf("%d created", done.Created)
	}
	data, err := os.ReadFile(to + strings.Repeat("/d", depth) + "/file")
	if err != nil || string(data) != "bottom" {
		t.Errorf("%q, %v", data, err)
	}
	must(t, os.RemoveAll(from+"/d"))
	done = syncAndVerify(t, from, to, tree.Options{})
	if done.Deleted != depth+1 {
		t.Errorf("%d deleted", done.Deleted)
	}
}

func TestLargeDirectory(t *testing.T) {
	t.Parallel()
	from, to := emptyTrees(t)
	for i := range 1500 {
		must(t, os.WriteFile(filepath.Join(from, fmt.Sprintf("%0200d", i)), nil, 0o644))
		must(t, os.WriteFile(filepath.Join(to, fmt.Sprintf("%0199d", i)), nil, 0o644))
	}
	done := syncAndVerify(t, from, to, tree.Options{})
	if done.Created != 1500 || done.Deleted != 1500 {
		t.Errorf("%+v", done)
	}
}

func TestSocketsAreLeftOut(t *testing.T) {
	from, to := emptyTrees(t)
	for _, top := range []string{from, to} {
		must(t, unix.Mknod(filepath.Join(top, "both"), unix.S_IFSOCK|0o600, 0))
	}
	must(t, unix.Mknod(filepath.Join(from, "so\ncket"), unix.S_IFSOCK|0o600, 0),
		unix.Mknod(filepath.Join(to, "old"), unix.S_IFSOCK|0o600, 0))
	done, err := tree.Sync(t.Context(), from, to, tree.Options{})
	must(t, err)
	want := []string{filepath.Join(from, "both") + ": a socket, left out", `"` + from + `/so\ncket": a socket, left out`}
	if diff := cmp.Diff(want, done.Warnings); diff != "" {
		t.Error(diff)
	}
	if done.Created != 0 || done.Deleted != 1 {
		t.Errorf("%+v", done)
	}
}

func TestListsAreBounded(t *testing.T) {
	from, to := emptyTrees(t)
	for i := range 150 {
		must(t, unix.Mknod(filepath.Join(from, fmt.Sprintf("s%03d", i)), unix.S_IFSOCK|0o600, 0))
	}
	done, err := tree.Sync(t.Context(), from, to, tree.Options{})
	must(t, err)
	if n := len(done.Warnings); n != 101 || done.Warnings[100] != "and 50 more" {
		t.Errorf("%d warnings, the last is %q", n, done.Warnings[n-1])
	}
}

func TestSkippedPathsAreLeftAlone(t *testing.T) {
	from, to := emptyTrees(t)
	for _, name := range []string{"a/keep/x", "gone/keep/x", "gone/y", "file"} {
		write(t, filepath.Join(to, name), []byte("old"))
	}
	write(t, filepath.Join(from, "a/keep/x"), []byte("other"))
	write(t, filepath.Join(from, "a/new"), []byte("new"))
	write(t, filepath.Join(from, "file"), []byte("other"))
	opts := tree.Options{Skip: []string{"a/keep", "gone/keep", "file"}}
	_, err := tree.Sync(t.Context(), from, to, opts)
	must(t, err)
	for name, want := range map[string]string{"a/keep/x": "old", "a/new": "new", "gone/keep/x": "old", "file": "old"} {
		if data, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(to, "gone/y")); !os.IsNotExist(err) {
		t.Errorf("beside what is skipped: %v", err)
	}
	if done, err := tree.Sync(t.Context(), from, to, opts); err != nil || !done.Same() {
		t.Errorf("a second run: %+v, %v", done, err)
	}
}

// Progress is reported also while one large file is compared.
func TestProgressIsReportedWithinAFile(t *testing.T) {
	t.Parallel()
	from, to := emptyTrees(t)
	writeSparse(t, filepath.Join(from, "large"), 64<<20, map[int64][]byte{63 << 20: randomBytes(1, 1<<20)})
	var seen []tree.Progress
	_, err := tree.Sync(t.Context(), from, to, tree.Options{
		Report: func(p tree.Progress) { seen = append(seen, p) },
		Gate: func(int64) error { // takes longer than the least time between two reports
			<-time.After(250 * time.Millisecond)
			return nil
		},
	})
	must(t, err)
	within := slices.IndexFunc(seen, func(p tree.Progress) bool {
		return p.Path == "large" && p.Files == 0 && p.Done > 63<<20 && p.Done < p.Total
	})
	if within < 0 || !slices.IsSortedFunc(seen, func(a, b tree.Progress) int { return int(a.Done - b.Done) }) {
		t.Errorf("%+v", seen)
	}
}

func TestMissingRootIsNamed(t *testing.T) {
	from, to := emptyTrees(t)
	write(t, from+"/file", nil)
	for _, roots := range [][2]string{{from + "/x", to}, {from, to + "/x"}, {from + "/file", to}} {
		_, err := tree.Sync(t.Context(), roots[0], roots[1], tree.Options{})
		if err == nil || !strings.Contains(err.Error(), "open directory "+from+"/") &&
			!strings.Contains(err.Error(), "open directory "+to+"/x") {
			t.Errorf("%v: %v", roots, err)
		}
	}
	_, err := tree.Sync(t.Context(), from, to, tree.Options{Link: to + "/older"})
	if err == nil || !strings.Contains(err.Error(), to+"/older") {
		t.Errorf("Link: %v", err)
	}
}

// If `from` shows every device node as 0:0, the nodes of `to` keep their device numbers.
func TestNoDevicesKeepsDeviceNumbers(t *testing.T) {
	from, to := emptyTrees(t)
	number := int(unix.Mkdev(1, 3))
	must(t, unix.Mknod(filepath.Join(from, "kept"), unix.S_IFCHR|0o640, 0),
		unix.Mknod(filepath.Join(to, "kept"), unix.S_IFCHR|0o600, number),
		unix.Mknod(filepath.Join(from, "missing"), unix.S_IFCHR|0o600, 0))
	done, err := tree.Sync(t.Context(), from, to, tree.Options{NoDevices: true})
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(to, "kept"), &st))
	if st.Rdev != uint64(number) || st.Mode&0o777 != 0o640 {
		t.Errorf("the device is %#x with mode %o now", st.Rdev, st.Mode)
	}
	if err := unix.Lstat(filepath.Join(to, "missing"), &st); err == nil || len(done.Warnings) != 1 {
		t.Errorf("a device of unknown number was made: %v, %v", err, done.Warnings)
	}
}

// What takes long without a file being finished is reported too: a run that reports nothing is given up.
func TestProgressIsReportedWithoutFiles(t *testing.T) {
	slow := func(int64) error { // takes longer than the least time between two reports
		<-time.After(250 * time.Millisecond)
		return nil
	}
	reported := func(t *testing.T, sync func(tree.Options) error) (seen []tree.Progress) {
		must(t, sync(tree.Options{Gate: slow, Report: func(p tree.Progress) { seen = append(seen, p) }}))
		return seen
	}
	at := func(path string) func(tree.Progress) bool {
		return func(p tree.Progress) bool { return p.Path == path && p.Files == 0 }
	}
	t.Run("data where there is to be a hole", func(t *testing.T) {
		t.Parallel()
		from, to := emptyTrees(t)
		writeSparse(t, from+"/large", 4<<20, nil)
		writeSparse(t, to+"/large", 4<<20, map[int64][]byte{0: randomBytes(1, 4<<20)})
		seen := reported(t, func(o tree.Options) error { _, err := tree.Sync(t.Context(), from, to, o); return err })
		within := func(p tree.Progress) bool { return at("large")(p) && p.Total > 0 }
		if !slices.ContainsFunc(seen, within) {
			t.Errorf("%+v", seen)
		}
	})
	for name, make := range map[string]func(from, to string) error{
		"directories":        func(from, _ string) error { return os.Mkdir(from+"/dir", 0o700) },
		"what is not wanted": func(_, to string) error { return os.Mkdir(to+"/dir", 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			from, to := emptyTrees(t)
			must(t, make(from, to))
			seen := reported(t, func(o tree.Options) error { _, err := tree.Estimate(t.Context(), from, to, o); return err })
			if !slices.ContainsFunc(seen, at("dir")) {
				t.Errorf("%+v", seen)
			}
		})
	}
}
