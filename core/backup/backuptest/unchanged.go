package backuptest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/record"
)

// Unchanged is what says to a backend that a file has not changed since the last backup, and need not be read.
type Unchanged int

const (
	ByReading Unchanged = iota // nothing does: it reads every file
	ByRecord                   // the record that it finds in Tree.Records
	ByItself                   // inode, size and times that it keeps itself, the time of change among them
)

// recorded stores what is there now, as a host does that keeps records.
func (b *bench) recorded(readAll bool, roots ...string) backup.Stored {
	b.Helper()
	stored, err := b.storing(readAll, roots...).Store(b.ctx, ignore)
	if err != nil || len(stored.Warnings) > 0 {
		b.Fatalf("Store: %v, warnings %q\n%v", err, stored.Warnings, factsOf(err))
	}
	return stored
}

func (b *bench) storing(readAll bool, roots ...string) record.Storing {
	b.Helper()
	d, err := b.Backend.Describe(b.ctx, b.Config)
	if err != nil {
		b.Fatal(err)
	}
	t := backup.Tree{Host: "host-a", Set: "snap", Time: time.Now(), Roots: roots, ReadAll: readAll}
	return record.Storing{
		Backend: b.Backend, Config: b.Config, Tree: t, Recording: d.Recording,
		Keeper: b.keeper(), File: filepath.Join(b.work, "record"),
	}
}

func (b *bench) keeper() record.Keeper { return record.Keeper{Dir: filepath.Join(b.work, "records")} }

// settle waits until what was changed until now is old enough to be recorded.
func (b *bench) settle() { time.Sleep(record.Settled + 10*time.Millisecond) }

// disguised changes files in every way that leaves their sizes and times of modification as they were.
func disguised(b *bench) {
	const first, second = "first content", "other content"
	want := map[string]string{
		"same": first, "written": second, "mapped": "X" + first[1:], "swapped/file": second, "rolled-back/file": second,
	}
	dir, away := filepath.Join(b.work, "dat"), filepath.Join(b.work, "away")
	for file := range want {
		b.dated(filepath.Join(dir, file), first)
	}
	b.dated(filepath.Join(dir, "other/file"), second)
	b.dated(filepath.Join(away, "file"), second) // what a rollback will bring back: it was changed before the backup
	b.alikeToTheTick(filepath.Join(dir, "swapped/file"), filepath.Join(dir, "other/file"))
	page, unmap := b.mapped(filepath.Join(dir, "mapped"))
	defer unmap()
	page[0] = first[0] // from now on the page is dirty, and a further store sets no time
	b.settle()
	one := b.recorded(false, dir)

	b.dated(filepath.Join(dir, "written"), second)
	page[0] = 'X'
	b.exchange(filepath.Join(dir, "swapped"), filepath.Join(dir, "other"))
	b.exchange(filepath.Join(dir, "rolled-back"), away)
	two := b.recorded(false, dir)
	for file, content := range want {
		b.holds(one.ID, dir, file, first)
		b.holds(two.ID, dir, file, content)
	}
	now := look(b.T, dir)
	b.presented(two.ID, func(_ context.Context, p backup.Presented) error {
		if diff := cmp.Diff(now, look(b.T, p.Roots[dir])); diff != "" {
			b.Errorf("it is presented otherwise (-stored +presented):\n%s", diff)
		}
		return nil
	})
	if !b.Whole && two.Added > 1<<20 {
		b.Errorf("of a few bytes that changed the repository grew by %d", two.Added)
	}
}

// believing gives the backend a record that is false: it says of a file that has changed that it has not. Whoever goes
// by the record keeps what it has, unless it is told to read everything.
func believing(b *bench) {
	dir := filepath.Join(b.work, "dat")
	file := filepath.Join(dir, "file")
	b.dated(file, "first content")
	b.settle()
	one := b.recorded(false, dir)
	b.dated(file, "other content")
	b.settle()
	s := b.storing(false, dir)
	s.Tree.Record = s.File
	if err := record.Make(b.ctx, s.Tree, nil, nil, ignore); err != nil {
		b.Fatal(err)
	}
	if err := s.Keeper.Keep(one, s.File); err != nil {
		b.Fatal(err)
	}
	want := "other content"
	if b.Unchanged == ByRecord {
		want = "first content"
	}
	b.holds(b.recorded(false, dir).ID, dir, "file", want)
	b.holds(b.recorded(true, dir).ID, dir, "file", "other content")
}

// unrecorded stores first as a host does that keeps no records, such as one with an earlier version.
func unrecorded(b *bench) {
	dir := filepath.Join(b.work, "dat")
	file := filepath.Join(dir, "file")
	b.dated(file, "first content")
	one := b.store(backup.Tree{Host: "host-a", Set: "snap", Time: time.Now(), Roots: []string{dir}})
	b.dated(file, "other content")
	two := b.recorded(false, dir)
	b.holds(one.ID, dir, "file", "first content")
	b.holds(two.ID, dir, "file", "other content")
	if listed := b.list("host-a"); !b.opens(two) || !b.opens(listed[0]) {
		b.Error("the backup, as it was stored or as it is listed, has no record")
	}
}

func (b *bench) opens(s backup.Stored) bool {
	r := b.keeper().Open(s)
	defer r.Close()
	return r != nil
}

// dated writes a file and gives it the date that all files of these cases have.
func (b *bench) dated(path, content string) {
	b.Helper()
	date := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, date, date),
	} {
		if err != nil {
			b.Fatal(err)
		}
	}
}

// alikeToTheTick gives two files one time of change: the clock that it is taken from ticks every few milliseconds.
func (b *bench) alikeToTheTick(one, other string) {
	b.Helper()
	changed := func(path string) unix.Timespec {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			b.Fatal(err)
		}
		return st.Ctim
	}
	for again := true; again; again = changed(one) != changed(other) {
		if err := os.Chmod(one, 0o644); err != nil {
			b.Fatal(err)
		}
		if err := os.Chmod(other, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// mapped maps the beginning of a file into memory, to be written.
func (b *bench) mapped(path string) (page []byte, unmap func()) {
	b.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	page, err = unix.Mmap(int(file.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		b.Fatal(err)
	}
	return page, func() { _ = unix.Munmap(page) }
}

func (b *bench) exchange(one, other string) {
	b.Helper()
	if err := unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
		b.Fatalf("exchange %s: %v", strings.Join([]string{one, other}, " and "), err)
	}
}
