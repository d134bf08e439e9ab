package tree_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/tree"
)

// Each change of metadata is found and set without writing any data, and counts as one entry.
func TestEachMetadataChangeIsFoundAndSet(t *testing.T) {
	t.Parallel()
	changes := map[string]func(path string) error{
		"owner":           func(path string) error { return os.Lchown(path, 7, -1) },
		"group":           func(path string) error { return os.Lchown(path, -1, 7) },
		"mode":            func(path string) error { return os.Chmod(path, 0o4711|fs.ModeSetuid) },
		"owner of setuid": func(path string) error { return os.Lchown(path, 7, 7) },
		"time": func(path string) error {
			return unix.Lutimes(path, []unix.Timeval{{Sec: 1}, {Sec: 2, Usec: 3}})
		},
		"attribute":         func(path string) error { return unix.Setxattr(path, "user.a", []byte("b"), 0) },
		"attribute changed": func(path string) error { return unix.Setxattr(path, "user.had", []byte("b"), 0) },
		"attribute of none": func(path string) error { return unix.Setxattr(path, "user.had", nil, 0) },
		"attribute removed": func(path string) error { return unix.Removexattr(path, "user.had") },
		"ACL": func(path string) error {
			return unix.Setxattr(path, "system.posix_acl_access", posixACL(), 0)
		},
		"ACL removed":       func(path string) error { return unix.Removexattr(path, "system.posix_acl_access") },
		"trusted":           func(path string) error { return unix.Setxattr(path, "trusted.a", []byte("b"), 0) },
		"security":          func(path string) error { return unix.Setxattr(path, "security.a", []byte("b"), 0) },
		"capability":        func(path string) error { return unix.Setxattr(path, "security.capability", capability, 0) },
		"capability, owner": func(path string) error { return os.Lchown(path, 9, 9) },
		"owner of a link":   func(path string) error { return os.Lchown(path, 7, 8) },
		"time of a link":    func(path string) error { return unix.Lutimes(path, []unix.Timeval{{Sec: 1}, {Sec: 2}}) },
		"attribute of link": func(path string) error { return unix.Lsetxattr(path, "trusted.a", []byte("b"), 0) },
		"mode of a FIFO":    func(path string) error { return os.Chmod(path, 0o622) },
		"default ACL": func(path string) error {
			return unix.Setxattr(path, "system.posix_acl_default", posixACL(), 0)
		},
		"mode of directory":  func(path string) error { return os.Chmod(path, 0o2700|fs.ModeSetgid) },
		"mode of the root":   func(path string) error { return os.Chmod(path, 0o1700|fs.ModeSticky) },
		"owner of the root":  func(path string) error { return os.Lchown(path, 3, 4) },
		"attribute of a dir": func(path string) error { return unix.Setxattr(path, "user.a", []byte("b"), 0) },
	}
	on := map[string]string{ // the entry that is changed; "file" if none is named
		"owner of setuid": "setuid", "ACL removed": "acl", "capability, owner": "capable", "owner of a link": "link",
		"time of a link": "link", "attribute of link": "link", "mode of a FIFO": "fifo", "default ACL": "dir",
		"mode of directory": "dir", "mode of the root": ".", "owner of the root": ".", "attribute of a dir": "dir",
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			from, to := emptyTrees(t)
			for _, file := range []string{"file", "setuid", "acl", "capable"} {
				write(t, from+"/"+file, []byte("data"))
			}
			must(t, os.Mkdir(from+"/dir", 0o755), os.Symlink("file", from+"/link"), unix.Mkfifo(from+"/fifo", 0o600),
				os.Chmod(from+"/setuid", 0o6755|fs.ModeSetuid|fs.ModeSetgid),
				unix.Setxattr(from+"/acl", "system.posix_acl_access", posixACL(), 0),
				unix.Setxattr(from+"/capable", "security.capability", capability, 0),
				unix.Setxattr(from+"/file", "user.had", []byte("x"), 0))
			syncAndVerify(t, from, to, tree.Options{})
			path := on[name]
			if path == "" {
				path = "file"
			}
			// Only the entry that this test changes in `from` is not what `to` was made from.
			untouched := func(rel string, _ *unix.Statx_t) bool { return rel != strings.TrimPrefix(path, ".") }
			waitForNewCtime(t, to+"/"+path)
			must(t, change(from+"/"+path))
			if name == "capability, owner" { // chown cleared the capability; set it again, so that only the owner differs
				must(t, unix.Setxattr(from+"/capable", "security.capability", capability, 0))
			}
			if name == "owner of setuid" {
				must(t, os.Chmod(from+"/setuid", 0o6755|fs.ModeSetuid|fs.ModeSetgid))
			}
			done := syncAndVerify(t, from, to, tree.Options{Unchanged: untouched})
			if done.Metadata != 1 || done.Written+done.Created+done.Changed+done.Deleted+done.Linked != 0 {
				t.Errorf("%+v", done)
			}
		})
	}
}

// waitForNewCtime waits until a file that is changed gets a later ctime than the file `than` has: the kernel's clock
// for ctimes ticks only every few milliseconds.
func waitForNewCtime(t *testing.T, than string) {
	changed := func(path string) unix.Timespec {
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		return st.Ctim
	}
	probe := filepath.Join(t.TempDir(), "probe")
	for write(t, probe, nil); changed(probe) == changed(than); {
		must(t, os.Chmod(probe, 0o600))
	}
}

// A new file can be read by root alone until its owner and mode are set, and so can a directory until it is filled.
func TestNewFileIsPrivateUntilComplete(t *testing.T) {
	from, to := emptyTrees(t)
	write(t, from+"/dir/secret", randomBytes(1, 5000))
	must(t, os.Chown(from+"/dir/secret", 7, 7), os.Chmod(from+"/dir/secret", 0o640))
	seen := false
	_, err := tree.Sync(t.Context(), from, to, tree.Options{Gate: func(n int64) error {
		if n != 5000 {
			return nil
		}
		seen = true
		for name, want := range map[string]fs.FileMode{"/dir": fs.ModeDir | 0o700, "/dir/secret": 0o600} {
			if st, err := os.Stat(to + name); err != nil || st.Mode() != want {
				t.Errorf("%s: %v, %v", name, st, err)
			}
		}
		return nil
	}})
	must(t, err)
	if !seen {
		t.Error("no data was written")
	}
	assertEqual(t, from, to)
}

// Reading does not set the atime: in a snapshot that would be a write for every file.
func TestReadingKeepsAtime(t *testing.T) {
	from, to := equalTrees(t, map[string][]byte{"dir/file": randomBytes(1, 5000)})
	var paths []string
	for _, top := range []string{from, to} {
		paths = append(paths, top, top+"/dir", top+"/dir/file")
	}
	longAgo := unix.Timespec{Sec: 1000} // before the last change, so that reading would set it also with relatime
	for _, path := range paths {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{longAgo, {Nsec: unix.UTIME_OMIT}}, 0))
	}
	_, err := tree.Sync(t.Context(), from, to, tree.Options{})
	must(t, err)
	for _, path := range paths {
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		if st.Atim.Sec != longAgo.Sec {
			t.Errorf("the atime of %s is %d", path, st.Atim.Sec)
		}
	}
}

// The kernel sets the nearest time that a file system can hold (ext4: up to 2446, XFS 2486 or 2038), without an error.
func TestTimeTheTargetCannotHoldIsAWarning(t *testing.T) {
	_, to := emptyTrees(t)
	from := tmpfs(t, "1m")
	write(t, from+"/file", []byte("x"))
	setMtime(t, from+"/file", 32503680000, 0)
	setMtime(t, to, 32503680000, 0)
	if st, err := os.Stat(to); err != nil || st.ModTime().Unix() == 32503680000 {
		t.Skipf("this file system holds the year 3000: %v", err)
	}
	for i := range 2 {
		done, err := tree.Sync(t.Context(), from, to, tree.Options{})
		must(t, err)
		if len(done.Warnings) != 1 || !strings.HasPrefix(done.Warnings[0], from+"/file: ") ||
			!strings.Contains(done.Warnings[0], " 3000-01-01T00:00:00Z, is one that the file system of the copy cannot hold") {
			t.Errorf("warnings %q", done.Warnings)
		}
		if i > 0 && !done.Same() {
			t.Errorf("the second time: %+v", done)
		}
	}
}
