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

// Unchanged says how a backend knows that a file has not changed since the last backup and need not be read.
type Unchanged int

const (
	ByReading Unchanged = iota // it does not know, and reads every file
	ByRecord                   // from the record in Tree.Records
	ByItself                   // from the inode, size, time of modification and ctime, which it keeps itself
)

// storeWithRecord stores the roots as they are now, as a host that keeps records does.
func (tc *testCase) storeWithRecord(readAll bool, roots ...string) backup.Stored {
	tc.Helper()
	stored, err := tc.prepareStoring(readAll, roots...).Store(tc.ctx, ignoreProgress)
	if err != nil || len(stored.Warnings) > 0 {
		tc.Fatalf("Store: %v, warnings %q\n%v", err, stored.Warnings, factsOf(err))
	}
	return stored
}

func (tc *testCase) prepareStoring(readAll bool, roots ...string) record.Storing {
	tc.Helper()
	d, err := tc.Backend.Describe(tc.ctx, tc.Config)
	if err != nil {
		tc.Fatal(err)
	}
	t := backup.Tree{Host: "host-a", Set: "snap", Time: time.Now(), Roots: roots, ReadAll: readAll}
	return record.Storing{
		Backend: tc.Backend, Config: tc.Config, Tree: t, Recording: d.Recording,
		Keeper: tc.recordKeeper(),
	}
}

func (tc *testCase) recordKeeper() record.Keeper {
	return record.Keeper{Dir: filepath.Join(tc.dir, "records")}
}

// waitUntilSettled waits until all changes made so far are old enough to be recorded.
func (tc *testCase) waitUntilSettled() { time.Sleep(record.Settled + 10*time.Millisecond) }

// sameSizeAndTime changes files in every way that leaves their sizes and times of modification as they were. The next
// backup must have the new content.
func sameSizeAndTime(tc *testCase) {
	const first, second = "first content", "other content"
	want := map[string]string{
		"same": first, "written": second, "mapped": "X" + first[1:], "swapped/file": second, "rolled-back/file": second,
	}
	dir, away := filepath.Join(tc.dir, "dat"), filepath.Join(tc.dir, "away")
	for file := range want {
		tc.writeDated(filepath.Join(dir, file), first)
	}
	tc.writeDated(filepath.Join(dir, "other/file"), second)
	tc.writeDated(filepath.Join(away, "file"), second) // comes back later, as by a rollback, with an older ctime
	tc.equalizeCtimes(filepath.Join(dir, "swapped/file"), filepath.Join(dir, "other/file"))
	page, unmap := tc.mapFile(filepath.Join(dir, "mapped"))
	defer unmap()
	page[0] = first[0] // now the page is dirty, and another store into it does not change the file's times
	tc.waitUntilSettled()
	before := tc.storeWithRecord(false, dir)

	tc.writeDated(filepath.Join(dir, "written"), second)
	page[0] = 'X'
	tc.exchange(filepath.Join(dir, "swapped"), filepath.Join(dir, "other"))
	tc.exchange(filepath.Join(dir, "rolled-back"), away)
	after := tc.storeWithRecord(false, dir)
	for file, content := range want {
		tc.wantContent(before.ID, dir, file, first)
		tc.wantContent(after.ID, dir, file, content)
	}
	stored := readTree(tc.T, dir)
	tc.present(after.ID, func(_ context.Context, p backup.Presented) error {
		if diff := cmp.Diff(stored, readTree(tc.T, p.Roots[dir])); diff != "" {
			tc.Errorf("it is not presented as it was stored (-stored +presented):\n%s", diff)
		}
		return nil
	})
	if !tc.Whole && after.Added > 1<<20 {
		tc.Errorf("a few bytes changed, and the repository grew by %d", after.Added)
	}
}

// falseRecord gives the backend a false record, which says that a changed file has not changed. A backend that uses
// records keeps the content that it has, unless it is told to read every file. Other backends store the new content.
func falseRecord(tc *testCase) {
	dir := filepath.Join(tc.dir, "dat")
	file := filepath.Join(dir, "file")
	tc.writeDated(file, "first content")
	tc.waitUntilSettled()
	stored := tc.storeWithRecord(false, dir)
	tc.writeDated(file, "other content")
	tc.waitUntilSettled()
	s := tc.prepareStoring(false, dir)
	s.Tree.Record = filepath.Join(tc.dir, "record")
	if _, err := record.Make(tc.ctx, s.Tree, nil, nil, ignoreProgress); err != nil {
		tc.Fatal(err)
	}
	if err := s.Keeper.Keep(stored, s.Tree.Record); err != nil {
		tc.Fatal(err)
	}
	want := "other content"
	if tc.Unchanged == ByRecord {
		want = "first content"
	}
	tc.wantContent(tc.storeWithRecord(false, dir).ID, dir, "file", want)
	tc.wantContent(tc.storeWithRecord(true, dir).ID, dir, "file", "other content")
}

// missingRecord makes the first backup as a host without records does, such as one with an earlier version of Rewind.
func missingRecord(tc *testCase) {
	dir := filepath.Join(tc.dir, "dat")
	file := filepath.Join(dir, "file")
	tc.writeDated(file, "first content")
	before := tc.store(backup.Tree{Host: "host-a", Set: "snap", Time: time.Now(), Roots: []string{dir}})
	tc.writeDated(file, "other content")
	after := tc.storeWithRecord(false, dir)
	tc.wantContent(before.ID, dir, "file", "first content")
	tc.wantContent(after.ID, dir, "file", "other content")
	if listed := tc.list("host-a"); !tc.hasRecord(after) || !tc.hasRecord(listed[0]) {
		tc.Error("there is no record for the backup as Store or as List returned it")
	}
}

func (tc *testCase) hasRecord(s backup.Stored) bool {
	r := tc.recordKeeper().Open(s)
	defer r.Close()
	return r != nil
}

// writeDated writes a file and gives it the time of modification that all files of these cases have.
func (tc *testCase) writeDated(path, content string) {
	tc.Helper()
	date := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, date, date),
	} {
		if err != nil {
			tc.Fatal(err)
		}
	}
}

// equalizeCtimes gives two files the same ctime. It tries until both changes are within one tick of the file system's
// clock, which ticks every few milliseconds.
func (tc *testCase) equalizeCtimes(one, other string) {
	tc.Helper()
	changed := func(path string) unix.Timespec {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			tc.Fatal(err)
		}
		return st.Ctim
	}
	for again := true; again; again = changed(one) != changed(other) {
		if err := os.Chmod(one, 0o644); err != nil {
			tc.Fatal(err)
		}
		if err := os.Chmod(other, 0o644); err != nil {
			tc.Fatal(err)
		}
	}
}

// mapFile maps the beginning of a file into memory, so that it can be written there.
func (tc *testCase) mapFile(path string) (page []byte, unmap func()) {
	tc.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		tc.Fatal(err)
	}
	defer file.Close()
	page, err = unix.Mmap(int(file.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tc.Fatal(err)
	}
	return page, func() { _ = unix.Munmap(page) }
}

func (tc *testCase) exchange(first, second string) {
	tc.Helper()
	if err := unix.Renameat2(unix.AT_FDCWD, first, unix.AT_FDCWD, second, unix.RENAME_EXCHANGE); err != nil {
		tc.Fatalf("exchange %s: %v", strings.Join([]string{first, second}, " and "), err)
	}
}

// addsOnlyChangesBesideOthers stores one of two roots in between: the next backup of both must not store the other one
// whole.
func addsOnlyChangesBesideOthers(tc *testCase) {
	hourly := tc.makeRoot("dat", map[string]string{"file": "content"})
	nightly := []string{hourly, tc.makeRoot("pccehr", map[string]string{"file": incompressible(4 << 20)})}
	tc.waitUntilSettled()
	tc.storeWithRecord(false, nightly...)
	tc.storeWithRecord(false, hourly)
	if last := tc.storeWithRecord(false, nightly...); !tc.Whole && last.Added > 1<<20 {
		tc.Errorf("nothing changed, and the repository grew by %d", last.Added)
	}
}
