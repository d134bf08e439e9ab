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

func ok(t *testing.T, all ...error) {
	t.Helper()
	for _, err := range all {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func stat(t *testing.T, path string) *unix.Statx_t {
	t.Helper()
	var st unix.Statx_t
	ok(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st))
	return &st
}

func quiet(backup.Progress) {}

// recorded records a tree as that of a backup, and opens the record.
func recorded(t *testing.T, root string, doubt Doubt, last *Record) (Keeper, backup.Stored, *Record) {
	t.Helper()
	of := backup.Tree{Host: "h", Time: time.Now(), Roots: []string{root}, Record: filepath.Join(t.TempDir(), "new")}
	s := backup.Stored{ID: "id", Host: "h", Time: of.Time, Roots: of.Roots, Files: 3}
	k := Keeper{Dir: filepath.Join(t.TempDir(), "records")}
	ok(t, Make(t.Context(), of, last, doubt, quiet), k.Keep(s, of.Record))
	r := k.Open(s)
	if r == nil {
		t.Fatal("the record cannot be opened")
	}
	t.Cleanup(r.Close)
	return k, s, r
}

// settled waits until what was changed until now can be taken as unchanged later.
func settled() { time.Sleep(Settled + 10*time.Millisecond) }

// grown is a tree whose files can be recorded.
func grown(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"file", "dir/file", "dir/below/file", "new\nline"} {
		path := filepath.Join(root, name)
		ok(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644))
	}
	ok(t, os.Mkdir(root+"/empty", 0o755), os.Symlink("file", root+"/link"))
	settled()
	return root
}

// Of all that says what a file is, each alone makes it another one; so do another name and another directory.
func TestWhatIsTheSame(t *testing.T) {
	t.Parallel()
	root := grown(t)
	_, _, r := recorded(t, root, nil, nil)
	for _, name := range []string{"file", "dir/file", "dir/below/file", "new\nline", "link", "empty", "dir", ""} {
		path := filepath.Join(root, name)
		if !r.Same(path, stat(t, path)) {
			t.Errorf("%q is what it was", name)
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
			t.Errorf("the same as %s", other)
		}
	}
	var none *Record
	if none.Same(path, stat(t, path)) {
		t.Error("the same as what nobody has recorded")
	}
}

// A file that was changed a moment before it was recorded may have changed again within the same tick.
func TestWhatWasChangedAMomentAgo(t *testing.T) {
	t.Parallel()
	root := grown(t)
	ok(t, os.Chmod(root+"/file", 0o600))
	_, _, r := recorded(t, root, nil, nil)
	if r.Same(root+"/file", stat(t, root+"/file")) {
		t.Error("it is taken as unchanged")
	}
	if !r.Same(root+"/dir/file", stat(t, root+"/dir/file")) {
		t.Error("another file is not known")
	}
}

// Only files that look the same are in doubt on what is read-only; on what is read live, also those that were not seen.
func TestDoubts(t *testing.T) {
	t.Parallel()
	root := grown(t)
	date := stat(t, root+"/dir/file").Mtime
	modified := time.Unix(date.Sec, int64(date.Nsec))
	_, _, last := recorded(t, root, nil, nil)
	ok(t, os.WriteFile(root+"/file", []byte("longer than it was"), 0o644), os.WriteFile(root+"/made", nil, 0o644),
		os.WriteFile(root+"/dir/file", []byte("DIR/FILE"), 0o644), os.Chtimes(root+"/dir/file", time.Time{}, modified))
	doubts := func() (all []string) {
		recorded(t, root, func(path string, _ uint32) error {
			all = append(all, strings.TrimPrefix(path, root+"/"))
			return nil
		}, last)
		slices.Sort(all)
		return all
	}
	if diff := cmp.Diff([]string{"dir/file", "file", "made"}, doubts()); diff != "" {
		t.Errorf("read live: %s", diff)
	}
	ok(t, unix.Mount(root, root, "", unix.MS_BIND, ""),
		unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	t.Cleanup(func() { ok(t, unix.Unmount(root, 0)) })
	if diff := cmp.Diff([]string{"dir/file"}, doubts()); diff != "" {
		t.Errorf("read-only: %s", diff)
	}
}

// A record is that of one backup, and what is damaged is none.
func TestOpen(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	k, s, _ := recorded(t, root, nil, nil)
	listed := s
	listed.Time, listed.Files = s.Time.Truncate(time.Second), 0
	if r := k.Open(listed); r == nil {
		t.Error("a list that knows less does not find it")
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
			t.Errorf("%s: it is taken for that of another backup", name)
		}
	}
	data, err := os.ReadFile(k.path("id"))
	ok(t, err)
	for end := range len(data) {
		ok(t, os.WriteFile(k.path("id"), data[:end], 0o600))
		if k.Open(s) != nil {
			t.Fatalf("cut off after %d of %d bytes it is taken for whole", end, len(data))
		}
	}
	ok(t, k.Remove("id"), k.Remove("id"))
}

// What no disk has written does no harm.
func FuzzRead(f *testing.F) {
	root := f.TempDir()
	if err := os.WriteFile(root+"/file", nil, 0o644); err != nil {
		f.Fatal(err)
	}
	of := backup.Tree{Time: time.Now(), Roots: []string{root}, Record: filepath.Join(f.TempDir(), "new")}
	if err := Make(context.Background(), of, nil, nil, quiet); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(of.Record)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "record")
		ok(t, os.WriteFile(path, data, 0o600))
		file, err := os.Open(path)
		ok(t, err)
		defer file.Close()
		if r, err := read(file, 0); err == nil {
			r.Same(root+"/file", &unix.Statx_t{})
			r.Same(root, &unix.Statx_t{Mode: unix.S_IFDIR})
		}
	})
}

// The oldest records go when there are too many; the last one stays.
func TestOldRecordsGo(t *testing.T) {
	t.Parallel()
	k := Keeper{Dir: t.TempDir()}
	from := filepath.Join(t.TempDir(), "new")
	ok(t, os.WriteFile(from, []byte("x"), 0o600))
	for i := range mostRecords + 5 {
		ok(t, k.Keep(backup.Stored{ID: fmt.Sprint(i)}, from))
		at := time.Unix(int64(1e9+i), 0)
		ok(t, os.Chtimes(k.path(fmt.Sprint(i)), at, at))
	}
	left, err := os.ReadDir(k.Dir)
	ok(t, err)
	if len(left) != mostRecords {
		t.Errorf("%d are left", len(left))
	}
	if _, err := os.Stat(k.path("5")); err != nil {
		t.Error("a newer one is gone")
	}
	if _, err := os.Stat(k.path("4")); err == nil {
		t.Error("the oldest is still there")
	}
	large := filepath.Join(t.TempDir(), "large")
	ok(t, os.WriteFile(large, nil, 0o600), os.Truncate(k.path("100"), mostBytes))
	at := time.Unix(int64(1e9+100), 0)
	ok(t, os.Chtimes(k.path("100"), at, at))
	ok(t, k.Keep(backup.Stored{ID: "last"}, large))
	if left, _ := os.ReadDir(k.Dir); len(left) != 5 { // last, and 101 to 104
		t.Errorf("%d are left beside a very large one", len(left))
	}
}

// storing is a backend that stores nothing and says that it has, but for what a test has it do.
type storing struct {
	backup.Backend
	store func(backup.Tree) (backup.Stored, error)
}

func (s storing) Store(_ context.Context, _ backup.Config, t backup.Tree, _ backup.Report) (backup.Stored, error) {
	return s.store(t)
}

// A backup is good whether it can be recorded or not, and what of it is not recorded is said. What was not stored, and
// what a backend should have recorded and has not, has no record.
func TestStoring(t *testing.T) {
	t.Parallel()
	good := func(backup.Tree) (backup.Stored, error) { return backup.Stored{ID: "id"}, nil }
	stores := storing{store: good}
	plain := filepath.Join(t.TempDir(), "a-file")
	ok(t, os.WriteFile(plain, nil, 0o644))
	tests := map[string]struct {
		s        Storing
		warnings int
		kept     bool
	}{
		"recorded by the host":      {Storing{Backend: stores}, 0, true},
		"not recorded by a backend": {Storing{Backend: stores, Recording: true}, 1, false},
		"no place for the record":   {Storing{Backend: stores, Keeper: Keeper{Dir: plain + "/records"}}, 1, false},
		"no place for a new one":    {Storing{Backend: stores, File: plain + "/new"}, 1, false},
		"not stored": {Storing{Backend: storing{store: func(backup.Tree) (backup.Stored, error) {
			return backup.Stored{}, errors.New("full")
		}}}, 0, false},
	}
	for name, tt := range tests {
		s := tt.s
		s.Tree = backup.Tree{Time: time.Now(), Roots: []string{t.TempDir()}}
		if s.Keeper.Dir == "" {
			s.Keeper.Dir = filepath.Join(t.TempDir(), "records")
		}
		if s.File == "" {
			s.File = filepath.Join(t.TempDir(), "new")
		}
		stored, err := s.Store(t.Context(), quiet)
		if (err == nil) != (stored.ID != "") || len(stored.Warnings) != tt.warnings {
			t.Errorf("%s: %+v, %v", name, stored, err)
		}
		if _, err := os.Stat(s.Keeper.path("id")); (err == nil) != tt.kept {
			t.Errorf("%s: the record: %v", name, err)
		}
		if _, err := os.Stat(s.File); err == nil {
			t.Errorf("%s: the new record is left where it was made", name)
		}
	}
}

// A record that could not be made leaves nothing behind, and is none.
func TestMakeThatFails(t *testing.T) {
	t.Parallel()
	of := backup.Tree{Time: time.Now(), Roots: []string{t.TempDir()}, Record: filepath.Join(t.TempDir(), "new")}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Make(ctx, of, nil, nil, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(of.Record); err == nil {
		t.Error("half a record is left")
	}
}
