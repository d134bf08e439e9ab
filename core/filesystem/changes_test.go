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

// linked makes a tree whose files are the very files of another one, as those
// of a snapshot are: all their times are equal.
func linked(t *testing.T, from string) string {
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

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	// A new file: writing into the old one would change both trees.
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Directories that were given each other's names hold other files, though their sizes and times may be equal.
func TestSwappedDirectories(t *testing.T) {
	then := t.TempDir()
	files := []string{filepath.Join(then, "a/file"), filepath.Join(then, "b/file")}
	for i, file := range files {
		write(t, file, []string{"one", "two"}[i])
	}
	now := linked(t, then)
	date := time.Unix(1e9, 7)
	for again := true; again; { // until both are changed within one tick of the clock
		var changed [2]unix.Timespec
		for i, file := range files {
			var st unix.Stat_t
			if err := errors.Join(os.Chtimes(file, date, date), unix.Stat(file, &st)); err != nil {
				t.Fatal(err)
			}
			changed[i] = st.Ctim
		}
		again = changed[0] != changed[1]
	}
	a, b := filepath.Join(now, "a"), filepath.Join(now, "b")
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	got, err := Changed(t.Context(), now, then, 10)
	if err != nil || got.Changed != 2 || got.New+got.Deleted != 0 {
		t.Errorf("two files are others than they were: %+v, %v", got, err)
	}
}

func TestChanged(t *testing.T) {
	then := t.TempDir()
	for _, file := range []string{"a", "b/same", "b/written", "gone/1", "gone/deep/2", "kind", "z"} {
		write(t, filepath.Join(then, file), "old")
	}
	if err := os.Symlink("there", filepath.Join(then, "link")); err != nil {
		t.Fatal(err)
	}
	now := linked(t, then)
	write(t, filepath.Join(now, "b/written"), "longer")
	write(t, filepath.Join(now, "new/1"), "12345")
	if err := os.RemoveAll(filepath.Join(now, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(now, "kind")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(now, "kind/inside"), "123")
	if err := os.Chmod(filepath.Join(now, "b"), 0o700); err != nil {
		t.Fatal(err)
	}

	got, err := Changed(t.Context(), now, then, 100)
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

	few, err := Changed(t.Context(), now, then, 2)
	want.Paths = want.Paths[:2]
	if diff := cmp.Diff(want, few); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// An old date does not hide a change: nobody can set a time of change.
func TestChangedSeesThroughAnOldDate(t *testing.T) {
	then := t.TempDir()
	date := time.Unix(1e9, 0)
	file := filepath.Join(then, "f")
	write(t, file, "old")
	if err := os.Chtimes(file, date, date); err != nil {
		t.Fatal(err)
	}
	now := linked(t, then)
	for { // the kernel's clock for files goes in steps
		write(t, filepath.Join(now, "f"), "new")
		if err := os.Chtimes(filepath.Join(now, "f"), date, date); err != nil {
			t.Fatal(err)
		}
		was, _ := lstat(file)
		if is, _ := lstat(filepath.Join(now, "f")); is.Ctim != was.Ctim {
			break
		}
	}
	got, err := Changed(t.Context(), now, then, 0)
	if err != nil || got.Changed != 1 || len(got.Paths) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestChangedOfEqualTrees(t *testing.T) {
	then := t.TempDir()
	write(t, filepath.Join(then, "a/b"), "x")
	got, err := Changed(t.Context(), linked(t, then), then, 9)
	if diff := cmp.Diff(Changes{Paths: []Change{}}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestChangedEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Changed(ctx, t.TempDir(), t.TempDir(), 1); fault.Of(err).Code != fault.Interrupted {
		t.Errorf("got %v", err)
	}
	if _, err := Changed(t.Context(), t.TempDir(), "/no/such", 1); fault.Of(err).Code != fault.NotFound {
		t.Errorf("got %v", err)
	}
}
