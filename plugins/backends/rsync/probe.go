package rsync

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// The owner, group and mode of the probe's file. No host has such an owner, and a file gets this mode only if modes are
// preserved.
const (
	probeOwner, probeGroup = 12345, 54321
	probeMode              = 0o4710
)

// probe sends a file and a symbolic link, fetches them again and checks their metadata. If the user on the other host
// is not root, owners are lost, because that user cannot give files to others; and rsync does not report that.
func (r remote) probe(ctx context.Context) ([]string, error) {
	if err := r.checkHost(ctx); err != nil {
		return nil, err
	}
	name := ".probe-" + randomName()
	lacks, err := r.sendAndFetchProbe(ctx, name)
	erased := r.runDespiteContext(ctx, func(ctx context.Context) error {
		return r.erase(ctx, "", []string{name}, ignoreProgress)
	})
	if err := fault.All(err, erased); err != nil {
		return nil, err
	}
	if len(lacks) == 0 {
		return nil, nil
	}
	return nil, fault.New(fault.Unsupported, "the backups in %s would lose %s: the user there is not root, "+
		"or the file system cannot hold them", r.options.Path, strings.Join(lacks, ", ")).
		WithHint("fake_super=true keeps them in extended attributes there; or log in as root, on a file system of Linux")
}

// checkHost finds out whether the place exists, and whether a Store of this host could begin there.
func (r remote) checkHost(ctx context.Context) error {
	dir, done, err := r.tempDir()
	if err != nil {
		return err
	}
	defer done()
	host := r.config.Host
	if err := r.fetchMarkers(ctx, dir, host); err != nil || host == "" {
		return err
	}
	noted, err := r.readMachine(dir, host)
	if err == nil {
		err = r.refuseOtherMachine(host, noted)
	}
	if _, statErr := os.Stat(filepath.Join(dir, host)); err != nil || statErr != nil {
		return err // without a directory there are no locks
	}
	_, err = r.deadLocks(dir, host, "")
	return err
}

// sendAndFetchProbe sends a small tree, fetches it again, and returns what was lost.
func (r remote) sendAndFetchProbe(ctx context.Context, name string) ([]string, error) {
	dir, done, err := r.tempDir()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := makeProbeFiles(filepath.Join(dir, "there", name)); err != nil {
		return nil, fault.New(fault.CommandFailed, "stage what is sent: %w", err)
	}
	plain := []string{"-aH", "--numeric-ids"}
	to := slices.Concat(plain, r.superArgs(), []string{"-R", "--", dir + "/there/./" + name, r.options.target() + "/"})
	if err := r.call(ctx, "write to "+r.options.Path, to...); err != nil {
		return nil, err
	}
	back := filepath.Join(dir, "back")
	from := slices.Concat(plain, r.superFromArgs(), []string{"--", r.options.target(name) + "/", back + "/"})
	if err := r.call(ctx, "read from "+r.options.Path, from...); err != nil {
		return nil, err
	}
	return checkProbeFiles(back)
}

func makeProbeFiles(dir string) error {
	file := filepath.Join(dir, "file")
	return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(file, []byte("rewind\n"), 0o600),
		os.Chown(file, probeOwner, probeGroup), unix.Chmod(file, probeMode), os.Symlink("file", filepath.Join(dir, "link")))
}

func checkProbeFiles(dir string) (lacks []string, err error) {
	var file, link unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "file"), &file); err != nil {
		return nil, fault.New(fault.CommandFailed, "what was sent does not come back: %w", err)
	}
	if file.Uid != probeOwner || file.Gid != probeGroup {
		lacks = append(lacks, "owners")
	}
	if file.Mode&0o7777 != probeMode {
		lacks = append(lacks, "permissions")
	}
	if unix.Lstat(filepath.Join(dir, "link"), &link) != nil || link.Mode&unix.S_IFMT != unix.S_IFLNK {
		lacks = append(lacks, "symbolic links")
	}
	return lacks, nil
}
