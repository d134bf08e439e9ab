package record

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
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func stat(t *testing.T, path string) *unix.Statx_t {
	t.Helper()
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st))
	return &st
}

func ignoreProgress(backup.Progress) {}

// recordTree makes, keeps and opens the record of a backup of root.
func recordTree(t *testing.T, root string, doubt Doubt, previous *Record) (Keeper, backup.Stored, *Record) {
	t.Helper()
	tr := backup.Tree{Host: "h", Time: time.Now(), Roots: []string{root}, Record: filepath.Join(t.TempDir(), "new")}
	s := backup.Stored{ID: "id", Host: "h", Time: tr.Time, Roots: tr.Roots, Files: 3}
	k := Keeper{Dir: filepath.Join(t.TempDir(), "records")}
	_, err := Make(t.Context(), tr, previous, doubt, ignoreProgress)
	must(t, err, k.Keep(s, tr.Record))
	r := k.Open(s)
	if r == nil {
		t.Fatal("the record cannot be opened")
	}
	t.Cleanup(r.Close)
	return k, s, r
}

// waitUntilSettled waits until all changes made so far are older than Settled.
func waitUntilSettled() { time.Sleep(Settled + 10*time.Millisecond) }

// makeTree makes a tree whose files were changed long enough ago to count as unchanged later.
func makeTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"file", "dir/file", "dir/below/file", "new\nline"} {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644))
	}
	must(t, os.Mkdir(root+"/empty", 0o755), os.Symlink("file", root+"/link"))
	waitUntilSettled()
	return root
}

// A change of any one attribute makes a file count as changed; so does another name or another directory.
func TestSameComparesEveryRecordedAttribute(t *testing.T) {
	t.Parallel()
	root := makeTree(t)
	_, _, r := recordTree(t, root, nil, nil)
	for _, name := range []string{"file", "dir/file", "dir/below/file", "new\nline", "link", "empty", "dir", ""} {
		path := filepath.Join(root, name)
		if !r.Same(path, stat(t, path)) {
			t.Errorf("%q is unchanged, and not taken as the same", name)
		}
	}
	path := filepath.Join(root, "dir/file")
	changes := map[string]func(*unix.Statx_t){
		"another inode":                  func(st *unix.Statx_t) { st.Ino++ },
		"another size":                   func(st *unix.Statx_t) { st.Size++ },
		"modified a nanosecond later":    func(st *unix.Statx_t) { st.Mtime.Nsec ^= 1 },
		"modified in another second":     func(st *unix.Statx_t) { st.Mtime.Sec-- },
		"changed a nanosecond earlier":   func(st *unix.Statx_t) { st.Ctime.Nsec ^= 1 },
		"changed before, by a rollback":  func(st *unix.Statx_t) { st.Ctime.Sec -= 3600 },
		"changed later":                  func(st *unix.Statx_t) { st.Ctime.Sec += 3600 },
		"another mode":                   func(st *unix.Statx_t) { st.Mode ^= 0o100 },
		"a file in place of a directory": func(st *unix.Statx_t) { st.Mode = unix.S_IFDIR | 0o755 },
	}
	for name, change := range changes {
		st := *stat(t, path)
		change(&st)
		if r.Same(path, &st) {
			t.Errorf("%s: taken as the same", name)
		}
	}
	for _, other := range []string{"dir/fild", "file", "dir/below/file", "nowhere/file"} {
		if r.Same(filepath.Join(root, other), stat(t, path)) {
			t.Errorf("taken as the same as %s", other)
		}
	}
	var none *Record
	if none.Same(path, stat(t, path)) {
		t.Error("without a record, taken as the same")
	}
}

// A file that was changed a moment before it was recorded may have changed again within the same tick.
func TestRecentlyChangedFileIsNotSame(t *testing.T) {
	t.Parallel()
	root := makeTree(t)
	must(t, os.Chmod(root+"/file", 0o600))
	_, _, r := recordTree(t, root, nil, nil)
	if r.Same(root+"/file", stat(t, root+"/file")) {
		t.Error("it is taken as unchanged")
	}
	if !r.Same(root+"/dir/file", stat(t, root+"/dir/file")) {
		t.Error("another file, which was not changed, is not the same")
	}
}

// On a read-only mount a file is in doubt only if its size and time of modification are the recorded ones. In a
// directory that is read live, a file without an entry is in doubt, too.
func TestMakeReportsDoubtfulFiles(t *testing.T) {
	t.Parallel()
	root := makeTree(t)
	date := stat(t, root+"/dir/file").Mtime
	modified := time.Unix(date.Sec, int64(date.Nsec))
	_, _, previous := recordTree(t, root, nil, nil)
	must(t, os.WriteFile(root+"/file", []byte("longer than it was"), 0o644), os.WriteFile(root+"/made", nil, 0o644),
		os.WriteFile(root+"/dir/file", []byte("DIR/FILE"), 0o644), os.Chtimes(root+"/dir/file", time.Time{}, modified))
	doubts := func() (all []string) {
		recordTree(t, root, func(path string, _ uint32) error {
			all = append(all, strings.TrimPrefix(path, root+"/"))
			return nil
		}, previous)
		slices.Sort(all)
		return all
	}
	if diff := cmp.Diff([]string{"dir/file", "file", "made"}, doubts()); diff != "" {
		t.Errorf("read live: %s", diff)
	}
	must(t, unix.Mount(root, root, "", unix.MS_BIND, ""),
		unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root, 0)) })
	if diff := cmp.Diff([]string{"dir/file"}, doubts()); diff != "" {
		t.Errorf("read-only: %s", diff)
	}
}

// Open finds a record only for the backup that it describes, and refuses a damaged record.
func TestOpenRejectsOtherAndDamagedRecords(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	k, s, _ := recordTree(t, root, nil, nil)
	listed := s
	listed.Time, listed.Files = s.Time.Truncate(time.Second), 0
	if r := k.Open(listed); r == nil {
		t.Error("no record for a backup whose list entry has fewer details")
	} else {
		r.Close()
	}
	for name, change := range map[string]func(*backup.Stored){
		"another time": func(s *backup.Stored) { s.Time = s.Time.Add(time.Minute) },
		"another host": func(s *backup.Stored) { s.Host = "x" },
		"other roots":  func(s *backup.Stored) { s.Roots = []string{"/x"} },
		"more files":   func(s *backup.Stored) { s.Files++ },
		"another id":   func(s *backup.Stored) { s.ID = "x" },
		"a way out":    func(s *backup.Stored) { s.ID = "../records/id" },
	} {
		other := s
		if change(&other); k.Open(other) != nil {
			t.Errorf("%s: the record is taken for that of another backup", name)
		}
	}
	data, err := os.ReadFile(k.path("id"))
	must(t, err)
	for end := range len(data) {
		must(t, os.WriteFile(k.path("id"), data[:end], 0o600))
		if k.Open(s) != nil {
			t.Fatalf("a record cut off after %d of %d bytes is taken as complete", end, len(data))
		}
	}
	must(t, k.Remove("id"), k.Remove("id"))
}

// A file with any content can be read without a panic.
func FuzzReadIndex(f *testing.F) {
	root := f.TempDir()
	if err := os.WriteFile(root+"/file", nil, 0o644); err != nil {
		f.Fatal(err)
	}
	tr := backup.Tree{Time: time.Now(), Roots: []string{root}, Record: filepath.Join(f.TempDir(), "new")}
	if _, err := Make(context.Background(), tr, nil, nil, ignoreProgress); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(tr.Record)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "record")
		must(t, os.WriteFile(path, data, 0o600))
		file, err := os.Open(path)
		must(t, err)
		defer file.Close()
		if r, err := readIndex(file, 0); err == nil {
			r.Same(root+"/file", &unix.Statx_t{})
			r.Same(root, &unix.Statx_t{Mode: unix.S_IFDIR})
		}
	})
}

// Keep removes the oldest records when there are too many or they are too large; the new one stays.
func TestKeepPrunesOldestRecords(t *testing.T) {
	t.Parallel()
	k := Keeper{Dir: t.TempDir()}
	file := filepath.Join(t.TempDir(), "new")
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	for i := range maxRecords + 5 {
		must(t, k.Keep(backup.Stored{ID: fmt.Sprint(i)}, file))
		modified := time.Unix(int64(1e9+i), 0)
		must(t, os.Chtimes(k.path(fmt.Sprint(i)), modified, modified))
	}
	left, err := os.ReadDir(k.Dir)
	must(t, err)
	if len(left) != maxRecords {
		t.Errorf("%d are left", len(left))
	}
	if _, err := os.Stat(k.path("5")); err != nil {
		t.Error("a newer record is gone")
	}
	if _, err := os.Stat(k.path("4")); err == nil {
		t.Error("the oldest is still there")
	}
	large := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(large, nil, 0o600), os.Truncate(k.path("100"), maxBytes))
	modified := time.Unix(int64(1e9+100), 0)
	must(t, os.Chtimes(k.path("100"), modified, modified))
	must(t, k.Keep(backup.Stored{ID: "last"}, large))
	if left, _ := os.ReadDir(k.Dir); len(left) != 5 { // last, and 101 to 104
		t.Errorf("%d records are left beside a very large one", len(left))
	}
}

// A killed process leaves the record that it was making, or the copy of one. Nobody else knows of that file.
func TestUnfinishedFilesAreRemovedAfterAWeek(t *testing.T) {
	t.Parallel()
	k := Keeper{Dir: filepath.Join(t.TempDir(), "records")}
	made, err := k.NewFile()
	must(t, err)
	old, young := filepath.Join(k.Dir, ".new-killed"), filepath.Join(k.Dir, ".id.record123")
	must(t, os.WriteFile(made, nil, 0o600), os.WriteFile(old, nil, 0o600), os.WriteFile(young, nil, 0o600))
	lastWeek := time.Now().Add(-unfinishedFor - time.Minute)
	must(t, os.Chtimes(old, lastWeek, lastWeek), k.Keep(backup.Stored{ID: "id"}, made))
	if _, err := os.Stat(old); err == nil {
		t.Error("what a process left that was killed a week ago is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("what another process is making: %v", err)
	}
}

// fakeBackend is a backend whose Store calls the test's function.
type fakeBackend struct {
	backup.Backend
	store func(backup.Tree) (backup.Stored, error)
}

func (s fakeBackend) Store(_ context.Context, _ backup.Config, t backup.Tree, _ backup.Report) (backup.Stored, error) {
	return s.store(t)
}

// A backup without a record is good, and a warning says that the record is missing. No record is kept if nothing was
// stored, or if the backend should have written the record and has not.
func TestStoreWithoutRecordIsAWarning(t *testing.T) {
	t.Parallel()
	good := func(backup.Tree) (backup.Stored, error) { return backup.Stored{ID: "id"}, nil }
	stores := fakeBackend{store: good}
	plain := filepath.Join(t.TempDir(), "a-file")
	must(t, os.WriteFile(plain, nil, 0o644))
	tests := map[string]struct {
		s        Storing
		warnings int
		kept     bool
	}{
		"recorded by the host":      {Storing{Backend: stores}, 0, true},
		"not recorded by a backend": {Storing{Backend: stores, Recording: true}, 1, false},
		"no place for the record":   {Storing{Backend: stores, Keeper: Keeper{Dir: plain + "/records"}}, 1, false},
		"not stored": {Storing{Backend: fakeBackend{store: func(backup.Tree) (backup.Stored, error) {
			return backup.Stored{}, errors.New("full")
		}}}, 0, false},
	}
	for name, tt := range tests {
		s := tt.s
		s.Tree = backup.Tree{Time: time.Now(), Roots: []string{t.TempDir()}}
		if s.Keeper.Dir == "" {
			s.Keeper.Dir = filepath.Join(t.TempDir(), "records")
		}
		stored, err := s.Store(t.Context(), ignoreProgress)
		if (err == nil) != (stored.ID != "") || len(stored.Warnings) != tt.warnings {
			t.Errorf("%s: %+v, %v", name, stored, err)
		}
		if _, err := os.Stat(s.Keeper.path("id")); (err == nil) != tt.kept {
			t.Errorf("%s: the record: %v", name, err)
		}
		if left, _ := filepath.Glob(s.Keeper.Dir + "/.*"); len(left) > 0 {
			t.Errorf("%s: the new record is left where it was made: %q", name, left)
		}
	}
}

// A Make that fails leaves no file behind.
func TestFailedMakeLeavesNoFile(t *testing.T) {
	t.Parallel()
	tr := backup.Tree{Time: time.Now(), Roots: []string{t.TempDir()}, Record: filepath.Join(t.TempDir(), "new")}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Make(ctx, tr, nil, nil, ignoreProgress); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(tr.Record); err == nil {
		t.Error("half a record is left")
	}
}
