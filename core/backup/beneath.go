package backup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// JoinNoLinks returns dir joined with path, after it has checked that this file exists and that no part of path is a
// symbolic link. Such a link could lead to the host's own files, and a restore would take them for files of the backup.
// dir itself may contain symbolic links. Fault: backend_failed.
func JoinNoLinks(dir, path string) (string, error) {
	joined := filepath.Join(dir, path)
	directory := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC}
	dirFD, err := filesystem.Openat2(unix.AT_FDCWD, dir, directory)
	if err != nil {
		return "", fault.New(fault.BackendFailed, "open %s: %w", dir, err)
	}
	defer unix.Close(dirFD)
	fd, err := filesystem.Openat2(dirFD, filepath.Join("./", path), unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ELOOP) {
		return "", fault.New(fault.BackendFailed, "%s is reached through a symbolic link, which is not followed", joined).
			WithHint("find out who has put the link there; take another backup: restore_id=ID")
	}
	if err != nil {
		return "", fault.New(fault.BackendFailed, "%s: %w", joined, err)
	}
	return joined, unix.Close(fd)
}

// RootsBeneath returns the path of each root of a backup below the directory dir, in which the backup was stored or
// laid out. Fault: backend_failed, as for JoinNoLinks.
func RootsBeneath(dir string, roots []string) (map[string]string, error) {
	all := make(map[string]string, len(roots))
	for _, root := range roots {
		path, err := JoinNoLinks(dir, root)
		if err != nil {
			return nil, err
		}
		all[root] = path
	}
	return all, nil
}

// RefuseLink refuses a directory of a repository that is a symbolic link. A directory that does not exist is accepted.
// Fault: backend_failed.
func RefuseLink(dir string) error {
	if info, err := os.Lstat(dir); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
	return fault.New(fault.BackendFailed, "%s is a symbolic link; a repository's directories are read through none", dir).
		WithHint("move what it leads to here, or mount it here (mount --bind)")
}
