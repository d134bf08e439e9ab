package backuptest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// testCase is one case while it runs.
type testCase struct {
	*testing.T
	Fixture
	ctx context.Context
	dir string // for the trees that are stored
}

// newCase prepares a case, and fails the test at its end if something is left in Scratch.
func newCase(t *testing.T, f Fixture) *testCase {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	tc := &testCase{T: t, Fixture: f, ctx: ctx, dir: t.TempDir()}
	scratch := filepath.Join(t.TempDir(), "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		t.Fatal(err)
	}
	tc.Config.Scratch, tc.Missing.Scratch = scratch, scratch
	t.Cleanup(func() {
		entries, err := os.ReadDir(scratch)
		if err != nil || len(entries) > 0 {
			t.Errorf("left in Scratch: %v %v", entries, err)
		}
	})
	return tc
}

// setTime returns the instant of a set, n minutes after the first one of the suite.
func setTime(n int) time.Time { return time.Date(2026, 3, 4, 5, 6+n, 7, 0, time.UTC) }

// tree returns the tree of a set of the n-th minute.
func (tc *testCase) tree(n int, roots ...string) backup.Tree {
	return backup.Tree{Host: "host-a", Set: "snap", Time: setTime(n), Roots: roots}
}

// store stores a tree, which must succeed.
func (tc *testCase) store(t backup.Tree) backup.Stored {
	tc.Helper()
	stored, err := tc.Backend.Store(tc.ctx, tc.Config, t, ignoreProgress)
	if err != nil {
		tc.Fatalf("Store: %v\n%v", err, fault.Of(err).Facts)
	}
	return stored
}

func (tc *testCase) list(host string) []backup.Stored {
	tc.Helper()
	all, err := tc.Backend.List(tc.ctx, tc.Config, host)
	if err != nil {
		tc.Fatalf("List: %v", err)
	}
	return all
}

// ids returns the IDs of the backups in a list.
func ids(all []backup.Stored) []string {
	list := []string{}
	for _, s := range all {
		list = append(list, s.ID)
	}
	return list
}

func ignoreProgress(backup.Progress) {}

// wantCode fails the test if err is not a fault with this code.
func (tc *testCase) wantCode(what string, err error, code fault.Code) {
	tc.Helper()
	if err == nil || fault.Of(err).Code != code {
		tc.Errorf("%s: %v (code %q), want code %q", what, err, codeOf(err), code)
	}
}

func codeOf(err error) fault.Code {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

// checkStored checks that s is a backup of the tree t.
func (tc *testCase) checkStored(s backup.Stored, t backup.Tree) {
	tc.Helper()
	if s.ID == "" || len(s.ID) > 255 || strings.ContainsAny(s.ID, "/\x00\n") || s.ID[0] == '.' || s.ID[0] == '-' {
		tc.Errorf("ID %q is not safe as a file's name", s.ID)
	}
	roots := slices.Sorted(slices.Values(s.Roots))
	if s.Host != t.Host || !s.Time.Equal(t.Time) || !slices.Equal(roots, slices.Sorted(slices.Values(t.Roots))) {
		tc.Errorf("stored %+v for %+v", s, t)
	}
}

// present presents a backup, which must succeed and leave the files of the repository as they were.
func (tc *testCase) present(id string, use func(context.Context, backup.Presented) error) {
	tc.Helper()
	calls, before := 0, tc.repositoryFiles()
	defer func() {
		if diff := cmp.Diff(before, tc.repositoryFiles()); diff != "" {
			tc.Errorf("Present changed what lies in the repository (-before +after):\n%s", diff)
		}
	}()
	err := tc.Backend.Present(tc.ctx, tc.Config, id, ignoreProgress, func(ctx context.Context, p backup.Presented) error {
		calls++
		return use(ctx, p)
	})
	if err != nil || calls != 1 {
		tc.Fatalf("Present %s: %v, used %d times\n%v", id, err, calls, factsOf(err))
	}
}

// repositoryFiles returns the paths of all files of the repository.
func (tc *testCase) repositoryFiles() []string {
	tc.Helper()
	var names []string
	err := filepath.WalkDir(tc.Local, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		tc.Fatalf("look into the repository: %v", err)
	}
	return names
}

// makeRoot makes a directory to be stored, or adds files to it. files has the content of each file, by name.
func (tc *testCase) makeRoot(name string, files map[string]string) string {
	tc.Helper()
	dir := filepath.Join(tc.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tc.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			tc.Fatal(err)
		}
	}
	return dir
}

// wantContent checks the content of a file in a root of a backup.
func (tc *testCase) wantContent(id, root, file, want string) {
	tc.Helper()
	tc.present(id, func(_ context.Context, p backup.Presented) error {
		got, err := os.ReadFile(filepath.Join(p.Roots[root], file))
		if err != nil || string(got) != want {
			tc.Errorf("%s of backup %s has the content %q (%v), want %q", file, id, got, err, want)
		}
		return nil
	})
}

// checkUsable checks that the repository can still be used: it stores a backup and presents it.
func (tc *testCase) checkUsable(minute int) {
	tc.Helper()
	if _, err := tc.Backend.Check(tc.ctx, tc.Config); err != nil {
		tc.Errorf("Check: %v", err)
	}
	dir := tc.makeRoot("after", map[string]string{"file": "content"})
	tc.wantContent(tc.store(tc.tree(minute, dir)).ID, dir, "file", "content")
}
