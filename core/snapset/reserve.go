package snapset

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// reserveBytes is the size of the reserve file in each of the two directories where files are written after a set's
// instant: LVM writes copies of its metadata, and this program writes into the journal that the set is taken.
const reserveBytes = 1 << 20

// lvmReserve and journalReserve return the paths of the reserve files for the set with this ID. A reserve file takes up
// space until the set's instant is over, and is removed if the disk has filled up by then, so that a full disk does not
// cost a good set. The files have names and are not kept open: while their file system is held, the kernel cannot free
// an open file without a name, so a killed process that had one could not end.
func lvmReserve(l *lvm.LVM, id string) string { return filepath.Join(l.Dir(), ".rewind-"+id) }

func (s Server) journalReserve(id string) string { return filepath.Join(s.StateDir, ".room-"+id) }

// checkReserveSpace fails with no_space if a disk is too full for the reserve files, which lie in these directories.
func checkReserveSpace(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		// Twice the size of one file, because both may lie on one file system.
		if free, err := durable.Free(dir); err == nil && free < 2*reserveBytes {
			errs = append(errs, noSpaceIn(dir, free))
		}
	}
	return fault.All(errs...)
}

func noSpaceIn(dir string, free int64) error {
	return fault.New(fault.NoSpace, "%s has %s free; a set wants %s there, for the journal and LVM's copies of its "+
		"metadata", dir, ansible.Bytes(free), ansible.Bytes(2*reserveBytes)).
		WithHint("make room: df -h %[1]s; df -i %[1]s", dir)
}

// createReserve creates a reserve file. It fails only if the disk is full. If the file system cannot preallocate, or
// cannot be written to, there is no reserve: whatever is written there later reports that.
func createReserve(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes), f.Close())
	}
	if !durable.IsFull(err) {
		return nil
	}
	_ = os.Remove(path)
	free, _ := durable.Free(filepath.Dir(path))
	return noSpaceIn(filepath.Dir(path), free)
}

// removeReserve removes a reserve file, unless err says that a volume may still be held: the removal would wait for
// that volume. Settling removes the file then.
func removeReserve(path string, err error) {
	if !mayHoldVolume(err) {
		_ = os.Remove(path)
	}
}

// runWithReserve runs a function that writes. If the disk is full, it removes the reserve file and runs the function
// again.
func runWithReserve(path string, write func() error) error {
	err := write()
	full := durable.IsFull(err) || errors.Is(err, fault.Unwritable)
	if full && os.Remove(path) == nil {
		err = write()
	}
	return err
}
