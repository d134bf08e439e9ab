package snapset

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// Where a set writes after its instant: LVM its copies of its metadata, and the journal that the set is taken. Tests
// have directories of their own.
var (
	lvmDir   = "/etc/lvm"
	stateDir = journey.State
)

// roomBytes is what is set aside in each of the two.
const roomBytes = 1 << 20

// lvmRoom and journalRoom are files that take the place of what is written after the instant of the set of that id, so
// that a disk that fills meanwhile does not cost a good set. They have names and are closed: a process that is killed
// while their file system is held could not end before it had given back a file without a name.
func lvmRoom(id string) string     { return filepath.Join(lvmDir, ".rewind-"+id) }
func journalRoom(id string) string { return filepath.Join(stateDir, ".room-"+id) }

// checkRoom refuses a set for which there is no room.
func checkRoom() error {
	var wrong []error
	for _, dir := range []string{lvmDir, stateDir} {
		if free, err := durable.Free(dir); err == nil && free < 2*roomBytes { // both may lie on one file system
			wrong = append(wrong, noRoomIn(dir, free))
		}
	}
	return fault.All(wrong...)
}

func noRoomIn(dir string, free int64) error {
	return fault.New(fault.NoSpace, "%s has %s free; a set wants %s there, for the journal and LVM's copies of its "+
		"metadata", dir, ansible.Bytes(free), ansible.Bytes(2*roomBytes)).
		WithHint("make room: df -h %[1]s; df -i %[1]s", dir)
}

// setAside makes such a file. Where a file system cannot set anything aside, or cannot be written to, there is none:
// whoever writes there says so.
func setAside(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, roomBytes), f.Close())
	}
	if !durable.Full(err) {
		return nil
	}
	_ = os.Remove(path)
	free, _ := durable.Free(filepath.Dir(path))
	return noRoomIn(filepath.Dir(path), free)
}

// giveBack removes such a file, unless a volume may still be held, on which the removal would wait: settling does it
// then.
func giveBack(path string, err error) {
	if !mayHold(err) {
		_ = os.Remove(path)
	}
}

// inRoom does what writes, and where the disk is full once more, in the room that was set aside for it.
func inRoom(path string, do func() error) error {
	err := do()
	full := durable.Full(err) || errors.Is(err, fault.Unwritable)
	if full && os.Remove(path) == nil {
		err = do()
	}
	return err
}
