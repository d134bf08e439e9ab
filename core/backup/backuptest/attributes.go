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

// attribute is something that a file may have beside its content, and a row of the table. Each has a file of its own.
type attribute struct {
	row  string
	give func(path string) error
	see  func(path string) (string, error) // how a person would see that the file has it
}

// allAttributes are the rows of the table, those of times last: what is given later changes them.
var allAttributes = []attribute{
	{
		"owner and group", func(path string) error { return unix.Lchown(path, 1234, 4321) },
		seeStat(func(st *unix.Statx_t) any { return fmt.Sprint(st.Uid, st.Gid) }),
	},
	{
		"mode, with setuid, setgid, sticky", func(path string) error { return unix.Chmod(path, 0o7711) },
		seeStat(func(st *unix.Statx_t) any { return st.Mode }),
	},
	{"user's extended attributes", giveXattr("user.rewind", []byte("a\x00b")), seeXattr("user.rewind")},
	{"POSIX ACLs", giveXattr("system.posix_acl_access", acl()), seeXattr("system.posix_acl_access")},
	{"capabilities", giveXattr("security.capability", capability), seeXattr("security.capability")},
	{
		"holes", func(path string) error { return os.Truncate(path, 1<<20) },
		seeStat(func(st *unix.Statx_t) any { return int64(st.Blocks)*512 < int64(st.Size) }),
	},
	{
		"hard links", func(path string) error { return os.Link(path, path+" second") },
		seeStat(func(st *unix.Statx_t) any { return st.Nlink }),
	},
	{
		"devices", func(path string) error {
			return errors.Join(os.Remove(path), unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		},
		seeStat(func(st *unix.Statx_t) any { return fmt.Sprint(st.Mode, st.Rdev_major, st.Rdev_minor) }),
	},
	{flagsAttribute, giveFlags(flagImmutable | flagNoDump), seeFlags(flagImmutable | flagNoDump)},
	{"other inode flags", giveFlags(flagNoAtime), seeFlags(flagNoAtime)},
	{"time of modification", giveTimes, seeStat(func(st *unix.Statx_t) any { return st.Mtime })},
	{"time of access", giveTimes, seeStat(func(st *unix.Statx_t) any { return st.Atime })},
	{"time of birth", func(string) error { return nil }, seeStat(func(st *unix.Statx_t) any { return st.Btime })},
}

// capability is what `setcap cap_net_bind_service+ep` writes (include/uapi/linux/capability.h: VFS_CAP_REVISION_2).
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// Inode flags (include/uapi/linux/fs.h).
const flagImmutable, flagNoDump, flagNoAtime = 0x10, 0x40, 0x80

func giveXattr(name string, value []byte) func(string) error {
	return func(path string) error { return unix.Setxattr(path, name, value, 0) }
}

func seeXattr(name string) func(string) (string, error) {
	return func(path string) (string, error) {
		value := make([]byte, 1<<10)
		n, err := unix.Getxattr(path, name, value)
		if err == unix.ENODATA {
			return "none", nil
		}
		return fmt.Sprintf("%x", value[:max(n, 0)]), err
	}
}

func seeStat(what func(*unix.Statx_t) any) func(string) (string, error) {
	return func(path string) (string, error) {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
		if err == unix.ENOENT {
			return "nothing there", nil
		}
		return fmt.Sprint(what(&st)), err
	}
}

func giveTimes(path string) error {
	old := time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC)
	return os.Chtimes(path, old, old)
}

// changeFlags calls fn with the inode flags of a file; what it returns is set.
func changeFlags(path string, fn func(uint32) uint32) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	have, err := unix.IoctlGetUint32(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if want := fn(have); err == nil && want != have {
		err = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, int(want))
	}
	return err
}

func giveFlags(flags uint32) func(string) error {
	return func(path string) error {
		return changeFlags(path, func(have uint32) uint32 { return have | flags })
	}
}

func seeFlags(flags uint32) func(string) (string, error) {
	return func(path string) (seen string, err error) {
		err = changeFlags(path, func(have uint32) uint32 {
			seen = fmt.Sprintf("%x", have&flags)
			return have
		})
		return seen, err
	}
}

// attributes stores a file with each attribute, restores the backup to an empty place, as a restore does, and holds
// what is there then against the table.
func attributes(b *bench) {
	dir, to := b.folder("dat", nil), b.folder("restored", nil)
	b.Cleanup(func() { // else the test cannot remove them
		for _, top := range []string{dir, to} {
			_ = changeFlags(filepath.Join(top, flagsRow), func(uint32) uint32 { return 0 })
		}
	})
	at := func(top, row string) string { return filepath.Join(top, strings.ReplaceAll(row, "`", "")) }
	for _, a := range allAttributes {
		path := at(dir, a.row)
		err := os.WriteFile(path, []byte("content"), 0o644)
		if err == nil {
			err = a.give(path)
		}
		if err != nil {
			b.Fatalf("%s: %v", a.row, err)
		}
	}
	want := map[string]string{}
	for _, a := range allAttributes {
		want[a.row] = b.seen(a, at(dir, a.row))
	}
	stored, flags := b.recorded(false, dir), "yes"
	b.presented(stored.ID, func(ctx context.Context, p backup.Presented) error {
		if p.Flags == "" {
			flags = "recorded"
		}
		_, err := tree.Sync(ctx, p.Roots[dir], to, restoring(b, stored, p, dir))
		return err
	})
	got := map[string]string{}
	for _, a := range allAttributes {
		got[a.row] = "no"
		if b.seen(a, at(to, a.row)) == want[a.row] {
			got[a.row] = "yes"
		}
	}
	if got[flagsAttribute] == "yes" {
		got[flagsAttribute] = flags
	}
	b.Logf("%v", got)
	if b.Page == "" {
		return
	}
	if diff := cmp.Diff(b.column(), got); diff != "" {
		b.Errorf("the table in %s does not say what a restore brings back (-table +restored):\n%s", b.Page, diff)
	}
}

// flagsAttribute is a row that the record of a backup has where the backend has it not.
const flagsAttribute = "inode flags `i`, `a`, `d`"

// flagsRow is the file whose flags are in the way of its removal.
const flagsRow = "inode flags i, a, d"

func (b *bench) seen(a attribute, path string) string {
	b.Helper()
	seen, err := a.see(path)
	if err != nil {
		b.Fatalf("%s: %v", a.row, err)
	}
	return seen
}

// restoring are the options with which a restore writes into a snapshot.
func restoring(b *bench, s backup.Stored, p backup.Presented, root string) tree.Options {
	o := tree.Options{NoDevices: p.NoDevices, Direct: p.Direct, Unlock: true}
	if p.Flags == "" {
		r := b.keeper().Open(s)
		defer r.Close()
		recorded := r.Flags()
		o.Flags = func(rel string) tree.Flags { return recorded[filepath.Join(root, rel)] }
		return o
	}
	file, err := os.Open(p.Flags)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	flags, err := backup.ReadFlags(file)
	if err != nil {
		b.Fatal(err)
	}
	o.Flags = func(rel string) tree.Flags { return flags[filepath.Join(root, rel)] }
	return o
}

// column is what the page's table says of the backend, by row.
func (b *bench) column() map[string]string {
	b.Helper()
	page, err := os.ReadFile(b.Page)
	if err != nil {
		b.Fatal(err)
	}
	d, err := b.Backend.Describe(b.ctx, b.Config)
	if err != nil {
		b.Fatal(err)
	}
	said, at := map[string]string{}, -1
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		switch {
		case strings.HasPrefix(line, "| attribute |"):
			at = slices.Index(trimmed(cells), d.Name)
		case at < 0 || strings.HasPrefix(line, "|--"):
		case !strings.HasPrefix(line, "| "):
			return said
		default:
			said[trimmed(cells)[0]] = trimmed(cells)[at]
		}
	}
	return said
}

func trimmed(cells []string) []string {
	var all []string
	for _, cell := range cells {
		all = append(all, strings.Trim(cell, "| "))
	}
	return all
}
