package rollback

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// Where a rollback writes, beside the units; tests have directories of their own.
var (
	journalDir = journey.JournalDir
	runDir     = journey.Run // also systemd's transient units and LVM's locks lie on that file system
)

const (
	roomAtLeast  = 256 << 10 // bytes in each of these directories, beside what is counted
	roomOfAUnit  = 8 << 10   // a file of the boot guard and its directory
	roomOfAGroup = 64 << 10  // LVM's metadata of a group of which it has no copy yet
	filesAtLeast = 64
)

// writing is what a rollback writes to a directory.
type writing struct {
	dir   string
	bytes int64
}

// room is what a rollback needs of one file system.
type room struct {
	dirs  []string
	bytes int64
}

// rooms counts what this rollback writes, by file system. The journal and LVM write each file anew beside the old one.
func (w *walk) rooms() ([]room, error) {
	state, err := json.Marshal(w.state)
	if err != nil {
		return nil, fault.New(fault.Internal, "state of the rollback: %w", err)
	}
	written := []writing{
		{journalDir, 4 * int64(len(state))},
		{unitDir, roomOfAUnit * int64(len(w.guarded())+4)},
		{runDir, 0},
	}
	for _, dir := range w.copies {
		written = append(written, w.metadata(dir))
	}
	var rooms []room
	at := map[uint64]int{}
	for _, part := range written {
		var st unix.Stat_t
		if err := unix.Stat(existing(part.dir), &st); err != nil {
			return nil, fault.New(fault.Internal, "%s: %w", part.dir, err)
		}
		i, known := at[st.Dev]
		if !known {
			i = len(rooms)
			at[st.Dev], rooms = i, append(rooms, room{})
		}
		rooms[i].dirs = append(rooms[i].dirs, part.dir)
		rooms[i].bytes += roomAtLeast + part.bytes
	}
	return rooms, nil
}

// metadata is what LVM's copies of its metadata take in one of their directories: one for each change of a group.
func (w *walk) metadata(dir string) writing {
	bytes := int64(0)
	for _, group := range w.state.groups() {
		one := int64(roomOfAGroup)
		for _, dir := range w.copies { // the backups have the groups' names
			if info, err := os.Stat(filepath.Join(dir, group)); err == nil {
				one += info.Size()
			}
		}
		changes := int64(2) // the end of the merges
		for _, m := range w.state.Members {
			if m.VG == group {
				changes++
			}
		}
		bytes += changes * one
	}
	return writing{dir, bytes}
}

// existing is the directory, or the nearest one above it that there is.
func existing(dir string) string {
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// checkRoom refuses a rollback that could not write down what it does, or for which LVM could not.
func (w *walk) checkRoom() error {
	rooms, err := w.rooms()
	if err != nil {
		return err
	}
	var wrong []error
	for _, r := range rooms {
		wrong = append(wrong, r.check())
	}
	return fault.All(wrong...)
}

func (r room) check() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(existing(r.dirs[0]), &fs); err != nil {
		return fault.New(fault.Internal, "%s: %w", r.dirs[0], err)
	}
	free, err := durable.Free(existing(r.dirs[0]))
	if err != nil {
		return fault.New(fault.Internal, "%w", err)
	}
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return fault.New(fault.Unsupported, "%s cannot be written to: the file system is mounted read-only",
			strings.Join(r.dirs, ", ")).
			WithHint("findmnt -T %s shows it; mount -o remount,rw, or see in the kernel's log why it is", r.dirs[0])
	case free < r.bytes:
		return r.tooSmall(ansible.Bytes(free) + " is free")
	case fs.Files > 0 && fs.Ffree < filesAtLeast:
		return r.tooSmall("next to no inode is free")
	}
	return nil
}

func (r room) tooSmall(what string) error {
	dirs := strings.Join(r.dirs, ", ")
	return fault.New(fault.NoSpace, "a rollback writes up to %s to %s (journal, boot guard, LVM's copies of "+
		"its metadata), and %s there", ansible.Bytes(r.bytes), dirs, what).
		WithHint("make room: df -h %[1]s; df -i %[1]s", strings.ReplaceAll(dirs, ",", ""))
}

// reserve sets the room aside until the rollback needs it, or ends: programs that are not stopped go on writing
// meanwhile.
func (w *walk) reserve() error {
	if err := w.checkRoom(); err != nil {
		return err
	}
	rooms, err := w.rooms()
	if err != nil {
		return err
	}
	for _, r := range rooms {
		f, err := durable.Reserve(existing(r.dirs[0]), r.bytes)
		if errors.Is(err, unix.EOPNOTSUPP) {
			continue // a file system that gives no promises, such as a copy-on-write one: the check must do
		}
		if err != nil {
			w.release()
			return r.tooSmall(err.Error())
		}
		w.reserved = append(w.reserved, f)
	}
	return nil
}

// release gives the room back, and says whether there was any.
func (w *walk) release() bool {
	had := len(w.reserved) > 0
	for _, f := range w.reserved {
		_ = f.Close()
	}
	w.reserved = nil
	return had
}

// record writes a step to the journal. If it cannot be written, the room that was set aside is used.
func (w *walk) record(step string, state any) error {
	err := w.trip.Record(step, state)
	if err != nil && w.release() {
		err = w.trip.Record(step, state)
	}
	return unwritten(err)
}

// reached is record for a step that counts whether it can be written down or not: past the point of no return, and on
// the way back. What is unwritten is said in the result, and tried again at the next step.
func (w *walk) reached(step string) {
	w.unwritten = w.record(step, w.state)
	w.entry().Step = step
}

// unwritten is the failure to write to the journal.
func unwritten(err error) error {
	if !durable.Full(err) {
		return err
	}
	return fault.New(fault.NoSpace, "%w", err).WithHint("make room: df -h %[1]s; df -i %[1]s", journalDir)
}

// warn adds to the result that the journal could not be written.
func (w *walk) warn() {
	if w.unwritten == nil {
		return
	}
	w.warnings = append(w.warnings, "the journal does not say so, and the next run writes it: "+w.unwritten.Error())
	w.unwritten = nil
}
