package backup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Beneath returns where a path lies below a directory of a backup, or fails with backend_failed where it is not there
// or is reached through a symbolic link: such a link leads to the host's own files, which a restore would take for the
// backup's. The directory itself may be reached through links.
func Beneath(dir, path string) (string, error) {
	at := filepath.Join(dir, path)
	top, err := open(unix.AT_FDCWD, dir, unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC})
	if err != nil {
		return "", fault.New(fault.BackendFailed, "open %s: %w", dir, err)
	}
	defer unix.Close(top)
	found, err := open(top, filepath.Join("./", path), unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ELOOP) {
		return "", fault.New(fault.BackendFailed, "%s is reached through a symbolic link, which is not followed", at).
			WithHint("find out who has put the link there; take another backup: restore_id=ID")
	}
	if err != nil {
		return "", fault.New(fault.BackendFailed, "%s: %w", at, err)
	}
	return at, unix.Close(found)
}

// RootsBeneath returns where each root of a backup lies below the directory that it was stored or laid out in.
func RootsBeneath(dir string, roots []string) (map[string]string, error) {
	all := make(map[string]string, len(roots))
	for _, root := range roots {
		at, err := Beneath(dir, root)
		if err != nil {
			return nil, err
		}
		all[root] = at
	}
	return all, nil
}

// NoLink refuses a symbolic link in the place of a repository's own directory; what is not there is no link.
func NoLink(dir string) error {
	if info, err := os.Lstat(dir); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
	return fault.New(fault.BackendFailed, "%s is a symbolic link; a repository's directories are read through none", dir).
		WithHint("move what it leads to here, or mount it here (mount --bind)")
}

// LockFlags are how a lock file is opened: made where it is not there, and never through a symbolic link.
const LockFlags = os.O_CREATE | os.O_RDONLY | unix.O_NOFOLLOW

func open(dir int, path string, how unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, path, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) { // a FUSE mount; a rename at the same moment
			return fd, err
		}
	}
}
