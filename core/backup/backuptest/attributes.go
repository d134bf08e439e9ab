package backuptest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/tree"
)

// attribute is something that a file may have beside its content. It has a row in the table, and a file of its own in
// the test.
type attribute struct {
	row  string                            // the first cell of the row
	set  func(path string) error           // gives the attribute to the file
	read func(path string) (string, error) // returns the attribute of the file in some form that can be compared
}

// allAttributes are the rows of the table.
var allAttributes = []attribute{
	{
		"owner and group", func(path string) error { return unix.Lchown(path, 1234, 4321) },
		readStat(func(st *unix.Statx_t) any { return fmt.Sprint(st.Uid, st.Gid) }),
	},
	{
		"mode, with setuid, setgid, sticky", func(path string) error { return unix.Chmod(path, 0o7711) },
		readStat(func(st *unix.Statx_t) any { return st.Mode }),
	},
	{"user's extended attributes", setXattr("user.rewind", []byte("a\x00b")), readXattr("user.rewind")},
	{"attributes user.rsync.*", setXattr("user.rsync.%stat", []byte("100644 0,0 0:0")), readXattr("user.rsync.%stat")},
	{"POSIX ACLs", setXattr("system.posix_acl_access", acl()), readXattr("system.posix_acl_access")},
	{"capabilities", setXattr("security.capability", capability), readXattr("security.capability")},
	{
		"holes", func(path string) error { return os.Truncate(path, 1<<20) },
		readStat(func(st *unix.Statx_t) any { return int64(st.Blocks)*512 < int64(st.Size) }),
	},
	{
		"hard links", func(path string) error { return os.Link(path, path+" second") },
		readStat(func(st *unix.Statx_t) any { return st.Nlink }),
	},
	{
		"devices", func(path string) error {
			return errors.Join(os.Remove(path), unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		},
		readStat(func(st *unix.Statx_t) any { return fmt.Sprint(st.Mode, st.Rdev_major, st.Rdev_minor) }),
	},
	{flagsRow, addFlags(flagImmutable | flagNoDump), readFlags(flagImmutable | flagNoDump)},
	{"other inode flags", addFlags(flagNoAtime), readFlags(flagNoAtime)},
	{"time of modification", setOldTimes, readStat(func(st *unix.Statx_t) any { return st.Mtime })},
	{"time of access", setOldTimes, readStat(func(st *unix.Statx_t) any { return st.Atime })},
	{"time of birth", func(string) error { return nil }, readStat(func(st *unix.Statx_t) any { return st.Btime })},
}

// capability is the extended attribute that `setcap cap_net_bind_service+ep` writes (include/uapi/linux/capability.h:
// VFS_CAP_REVISION_2).
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// Inode flags (include/uapi/linux/fs.h).
const flagImmutable, flagNoDump, flagNoAtime = 0x10, 0x40, 0x80

func setXattr(name string, value []byte) func(string) error {
	return func(path string) error { return unix.Setxattr(path, name, value, 0) }
}

func readXattr(name string) func(string) (string, error) {
	return func(path string) (string, error) {
		value := make([]byte, 1<<10)
		n, err := unix.Getxattr(path, name, value)
		if err == unix.ENODATA {
			return "none", nil
		}
		return fmt.Sprintf("%x", value[:max(n, 0)]), err
	}
}

func readStat(field func(*unix.Statx_t) any) func(string) (string, error) {
	return func(path string) (string, error) {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
		if err == unix.ENOENT {
			return "nothing there", nil
		}
		return fmt.Sprint(field(&st)), err
	}
}

func setOldTimes(path string) error {
	old := time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC)
	return os.Chtimes(path, old, old)
}

// changeFlags calls fn with the inode flags of a file, and sets the flags that fn returns if they differ.
func changeFlags(path string, fn func(uint32) uint32) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	old, err := unix.IoctlGetUint32(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if updated := fn(old); err == nil && updated != old {
		err = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, int(updated))
	}
	return err
}

func addFlags(flags uint32) func(string) error {
	return func(path string) error {
		return changeFlags(path, func(have uint32) uint32 { return have | flags })
	}
}

func readFlags(flags uint32) func(string) (string, error) {
	return func(path string) (seen string, err error) {
		err = changeFlags(path, func(have uint32) uint32 {
			seen = fmt.Sprintf("%x", have&flags)
			return have
		})
		return seen, err
	}
}

// checkAttributes stores one file for each attribute, writes the backup to an empty directory with the options of a
// restore, and compares the attributes that the files have then with the table.
func checkAttributes(tc *testCase) {
	dir, restored := tc.makeRoot("dat", nil), tc.makeRoot("restored", nil)
	tc.Cleanup(func() { // otherwise the test cannot remove the files
		for _, top := range []string{dir, restored} {
			_ = changeFlags(filepath.Join(top, flagsFile), func(uint32) uint32 { return 0 })
		}
	})
	path := func(top, row string) string { return filepath.Join(top, strings.ReplaceAll(row, "`", "")) }
	for _, a := range allAttributes {
		file := path(dir, a.row)
		err := os.WriteFile(file, []byte("content"), 0o644)
		if err == nil {
			err = a.set(file)
		}
		if err != nil {
			tc.Fatalf("%s: %v", a.row, err)
		}
	}
	want := map[string]string{}
	for _, a := range allAttributes {
		want[a.row] = tc.readAttribute(a, path(dir, a.row))
	}
	stored, flags := tc.storeWithRecord(false, dir), "yes"
	tc.present(stored.ID, func(ctx context.Context, p backup.Presented) error {
		if p.Flags == "" {
			flags = "recorded"
		}
		_, err := tree.Sync(ctx, p.Roots[dir], restored, syncOptions(tc, stored, p, dir))
		return err
	})
	got := map[string]string{}
	for _, a := range allAttributes {
		got[a.row] = "no"
		if tc.readAttribute(a, path(restored, a.row)) == want[a.row] {
			got[a.row] = "yes"
		}
	}
	if got[flagsRow] == "yes" {
		got[flagsRow] = flags
	}
	tc.Logf("%v", got)
	if tc.Page == "" {
		return
	}
	if diff := cmp.Diff(tc.documented(), got); diff != "" {
		tc.Errorf("the table in %s does not say what a restore brings back (-table +restored):\n%s", tc.Page, diff)
	}
}

// flagsRow is the row of the inode flags. If the backend does not keep these, the record of the backup does, and the
// table says "recorded".
const flagsRow = "inode flags `i`, `a`, `d`"

// flagsFile is the name of the file whose inode flags prevent its removal.
const flagsFile = "inode flags i, a, d"

func (tc *testCase) readAttribute(a attribute, path string) string {
	tc.Helper()
	value, err := a.read(path)
	if err != nil {
		tc.Fatalf("%s: %v", a.row, err)
	}
	return value
}

// syncOptions returns the options with which a restore writes into a snapshot.
func syncOptions(tc *testCase, s backup.Stored, p backup.Presented, root string) tree.Options {
	o := tree.Options{NoDevices: p.NoDevices, Direct: p.Direct, Unlock: true}
	if p.Flags == "" {
		r := tc.recordKeeper().Open(s)
		defer r.Close()
		recorded := r.Flags()
		o.Flags = func(rel string) tree.Flags { return recorded[filepath.Join(root, rel)] }
		return o
	}
	file, err := os.Open(p.Flags)
	if err != nil {
		tc.Fatal(err)
	}
	defer file.Close()
	flags, err := backup.ReadFlags(file)
	if err != nil {
		tc.Fatal(err)
	}
	o.Flags = func(rel string) tree.Flags { return flags[filepath.Join(root, rel)] }
	return o
}

// documented returns the column of the backend in the page's table, by row.
func (tc *testCase) documented() map[string]string {
	tc.Helper()
	page, err := os.ReadFile(tc.Page)
	if err != nil {
		tc.Fatal(err)
	}
	d, err := tc.Backend.Describe(tc.ctx, tc.Config)
	if err != nil {
		tc.Fatal(err)
	}
	table, column := map[string]string{}, -1
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		switch {
		case strings.HasPrefix(line, "| attribute |"):
			column = slices.Index(trimCells(cells), d.Name)
		case column < 0 || strings.HasPrefix(line, "|--"):
		case !strings.HasPrefix(line, "| "):
			return table
		default:
			table[trimCells(cells)[0]] = trimCells(cells)[column]
		}
	}
	return table
}

func trimCells(cells []string) []string {
	var all []string
	for _, cell := range cells {
		all = append(all, strings.Trim(cell, "| "))
	}
	return all
}
