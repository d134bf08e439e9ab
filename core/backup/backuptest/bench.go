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

// bench is one case at work.
type bench struct {
	*testing.T
	Fixture
	ctx  context.Context
	work string // for trees
}

func begin(t *testing.T, f Fixture) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	b := &bench{T: t, Fixture: f, ctx: ctx, work: t.TempDir()}
	scratch := filepath.Join(t.TempDir(), "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		t.Fatal(err)
	}
	b.Config.Scratch, b.Missing.Scratch = scratch, scratch
	t.Cleanup(func() {
		left, err := os.ReadDir(scratch)
		if err != nil || len(left) > 0 {
			t.Errorf("left in Scratch: %v %v", left, err)
		}
	})
	return b
}

// at is a set's instant, n minutes after the first one of the suite.
func at(n int) time.Time { return time.Date(2026, 3, 4, 5, 6+n, 7, 0, time.UTC) }

// tree is what is to be stored in the n-th minute.
func (b *bench) tree(n int, roots ...string) backup.Tree {
	return backup.Tree{Host: "host-a", Set: "snap", Time: at(n), Roots: roots}
}

// store stores a tree that nothing is wrong with.
func (b *bench) store(t backup.Tree) backup.Stored {
	b.Helper()
	stored, err := b.Backend.Store(b.ctx, b.Config, t, ignore)
	if err != nil {
		b.Fatalf("Store: %v\n%v", err, fault.Of(err).Facts)
	}
	return stored
}

func (b *bench) list(host string) []backup.Stored {
	b.Helper()
	all, err := b.Backend.List(b.ctx, b.Config, host)
	if err != nil {
		b.Fatalf("List: %v", err)
	}
	return all
}

// ids are those of a list.
func ids(all []backup.Stored) []string {
	list := []string{}
	for _, s := range all {
		list = append(list, s.ID)
	}
	return list
}

func ignore(backup.Progress) {}

// wantCode fails the test if err is not a failure of the code.
func (b *bench) wantCode(what string, err error, code fault.Code) {
	b.Helper()
	if err == nil || fault.Of(err).Code != code {
		b.Errorf("%s: %v (code %q), want code %q", what, err, codeOf(err), code)
	}
}

func codeOf(err error) fault.Code {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

// isStored checks that a backup is that of a tree.
func (b *bench) isStored(s backup.Stored, t backup.Tree) {
	b.Helper()
	if s.ID == "" || len(s.ID) > 255 || strings.ContainsAny(s.ID, "/\x00\n") || s.ID[0] == '.' || s.ID[0] == '-' {
		b.Errorf("ID %q is not safe as a file's name", s.ID)
	}
	roots := slices.Sorted(slices.Values(s.Roots))
	if s.Host != t.Host || !s.Time.Equal(t.Time) || !slices.Equal(roots, slices.Sorted(slices.Values(t.Roots))) {
		b.Errorf("stored %+v for %+v", s, t)
	}
}

// presented presents a backup, which has to work and to leave the repository as it was.
func (b *bench) presented(id string, use func(context.Context, backup.Presented) error) {
	b.Helper()
	used, before := 0, b.names()
	defer func() {
		if diff := cmp.Diff(before, b.names()); diff != "" {
			b.Errorf("Present changed what lies in the repository (-before +after):\n%s", diff)
		}
	}()
	err := b.Backend.Present(b.ctx, b.Config, id, ignore, func(ctx context.Context, p backup.Presented) error {
		used++
		return use(ctx, p)
	})
	if err != nil || used != 1 {
		b.Fatalf("Present %s: %v, used %d times\n%v", id, err, used, factsOf(err))
	}
}

// names are those of all files of the repository, as the suite sees it.
func (b *bench) names() []string {
	b.Helper()
	var names []string
	err := filepath.WalkDir(b.Local, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		b.Fatalf("look into the repository: %v", err)
	}
	return names
}

// folder makes a root with some files.
func (b *bench) folder(name string, files map[string]string) string {
	b.Helper()
	dir := filepath.Join(b.work, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// holds checks the content of a file of a backup's only root.
func (b *bench) holds(id, root, file, want string) {
	b.Helper()
	b.presented(id, func(_ context.Context, p backup.Presented) error {
		got, err := os.ReadFile(filepath.Join(p.Roots[root], file))
		if err != nil || string(got) != want {
			b.Errorf("%s of %s holds %q (%v), want %q", file, id, got, err, want)
		}
		return nil
	})
}

// works stores and presents once more.
func (b *bench) works(minute int) {
	b.Helper()
	if _, err := b.Backend.Check(b.ctx, b.Config); err != nil {
		b.Errorf("Check: %v", err)
	}
	dir := b.folder("after", map[string]string{"file": "content"})
	b.holds(b.store(b.tree(minute, dir)).ID, dir, "file", "content")
}
