package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// linkTree makes a tree of hard links to the files of another tree. As in a snapshot, all inodes and times are equal.
func linkTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return os.Link(path, filepath.Join(to, rel))
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	// The file must be a new one: writing into the existing hard link would change both trees.
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Two directories whose names were exchanged hold different files under the same paths, although the sizes and times of
// these files may be equal.
func TestChangedSeesSwappedDirectories(t *testing.T) {
	snapshot := t.TempDir()
	files := []string{filepath.Join(snapshot, "a/file"), filepath.Join(snapshot, "b/file")}
	for i, file := range files {
		writeFile(t, file, []string{"one", "two"}[i])
	}
	current := linkTree(t, snapshot)
	date := time.Unix(1e9, 7)
	for differ := true; differ; { // until both files have the same ctime
		var changed [2]unix.Timespec
		for i, file := range files {
			var st unix.Stat_t
			if err := errors.Join(os.Chtimes(file, date, date), unix.Stat(file, &st)); err != nil {
				t.Fatal(err)
			}
			changed[i] = st.Ctim
		}
		differ = changed[0] != changed[1]
	}
	a, b := filepath.Join(current, "a"), filepath.Join(current, "b")
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	got, err := Compare(t.Context(), current, snapshot, 10)
	if err != nil || got.Changed != 2 || got.New+got.Deleted != 0 {
		t.Errorf("two files were exchanged: %+v, %v", got, err)
	}
}

func TestChangedCountsAndNamesChanges(t *testing.T) {
	snapshot := t.TempDir()
	for _, file := range []string{"a", "b/same", "b/written", "gone/1", "gone/deep/2", "kind", "z"} {
		writeFile(t, filepath.Join(snapshot, file), "old")
	}
	if err := os.Symlink("there", filepath.Join(snapshot, "link")); err != nil {
		t.Fatal(err)
	}
	current := linkTree(t, snapshot)
	writeFile(t, filepath.Join(current, "b/written"), "longer")
	writeFile(t, filepath.Join(current, "new/1"), "12345")
	if err := os.RemoveAll(filepath.Join(current, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(current, "kind")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(current, "kind/inside"), "123")
	if err := os.Chmod(filepath.Join(current, "b"), 0o700); err != nil {
		t.Fatal(err)
	}

	got, err := Compare(t.Context(), current, snapshot, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := Changes{Changed: 3, New: 3, Deleted: 4, Bytes: 6 + 5 + 3, Paths: []Change{
		{"b", "changed"}, {"b/written", "changed"},
		{"gone", "deleted"}, {"gone/1", "deleted"}, {"gone/deep", "deleted"}, {"gone/deep/2", "deleted"},
		{"kind", "changed"}, {"kind/inside", "new"},
		{"new", "new"}, {"new/1", "new"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	few, err := Compare(t.Context(), current, snapshot, 2)
	want.Paths = want.Paths[:2]
	if diff := cmp.Diff(want, few); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// Setting the old mtime does not hide a change, because nobody can set the ctime.
func TestChangedSeesAFileGivenItsOldDate(t *testing.T) {
	snapshot := t.TempDir()
	date := time.Unix(1e9, 0)
	file := filepath.Join(snapshot, "f")
	writeFile(t, file, "old")
	if err := os.Chtimes(file, date, date); err != nil {
		t.Fatal(err)
	}
	current := linkTree(t, snapshot)
	for { // until the ctime differs: the kernel's clock for files advances in steps
		writeFile(t, filepath.Join(current, "f"), "new")
		if err := os.Chtimes(filepath.Join(current, "f"), date, date); err != nil {
			t.Fatal(err)
		}
		snapshotStat, _ := lstat(file)
		if currentStat, _ := lstat(filepath.Join(current, "f")); currentStat.Ctim != snapshotStat.Ctim {
			break
		}
	}
	got, err := Compare(t.Context(), current, snapshot, 0)
	if err != nil || got.Changed != 1 || len(got.Paths) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestChangedFindsNothingInEqualTrees(t *testing.T) {
	snapshot := t.TempDir()
	writeFile(t, filepath.Join(snapshot, "a/b"), "x")
	got, err := Compare(t.Context(), linkTree(t, snapshot), snapshot, 9)
	if diff := cmp.Diff(Changes{Paths: []Change{}}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestChangedFailsAfterCancelAndForAMissingTree(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compare(ctx, t.TempDir(), t.TempDir(), 1); fault.Of(err).Code != fault.Interrupted {
		t.Errorf("got %v", err)
	}
	if _, err := Compare(t.Context(), t.TempDir(), "/no/such", 1); fault.Of(err).Code != fault.NotFound {
		t.Errorf("got %v", err)
	}
}
