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
)

const (
	minBytes      = 256 << 10 // bytes in each directory, in addition to what is counted
	bytesPerUnit  = 8 << 10   // for a file of the boot guard and its directory
	bytesPerGroup = 64 << 10  // for LVM's copy of a volume group's metadata, in addition to existing copies
	minInodes     = 64
)

// dirNeed is how much a rollback writes to one directory.
type dirNeed struct {
	dir   string
	bytes int64
}

// spaceNeed is how much space a rollback needs on one file system, and for which directories.
type spaceNeed struct {
	dirs  []string
	bytes int64
}

// spaceNeeds returns how much this rollback writes, by file system. The journal and LVM write a new file beside the old
// one, so that the space of the old file is not free meanwhile.
func (r *stepRecorder) spaceNeeds() ([]spaceNeed, error) {
	state, err := json.Marshal(r.state)
	if err != nil {
		return nil, fault.New(fault.Internal, "state of the rollback: %w", err)
	}
	dirs := []dirNeed{
		{r.server.JournalDir, 4 * int64(len(state))},
		{r.server.UnitDir, bytesPerUnit * int64(len(r.state.guardedUnits())+4)},
		{r.server.RuntimeDir, 0},
	}
	for _, dir := range r.lvmBackupDirs {
		dirs = append(dirs, r.lvmCopies(dir))
	}
	var needs []spaceNeed
	index := map[uint64]int{}
	for _, d := range dirs {
		var st unix.Stat_t
		if err := unix.Stat(nearestExisting(d.dir), &st); err != nil {
			return nil, fault.New(fault.Internal, "%s: %w", d.dir, err)
		}
		i, known := index[st.Dev]
		if !known {
			i = len(needs)
			index[st.Dev], needs = i, append(needs, spaceNeed{})
		}
		needs[i].dirs = append(needs[i].dirs, d.dir)
		needs[i].bytes += minBytes + d.bytes
	}
	return needs, nil
}

// lvmCopies returns how much LVM writes to one of the directories for copies of its metadata: one copy for each change
// of a volume group.
func (r *stepRecorder) lvmCopies(dir string) dirNeed {
	bytes := int64(0)
	for _, group := range r.state.groups() {
		perChange := int64(bytesPerGroup)
		for _, dir := range r.lvmBackupDirs { // the backup of a group has its name
			if info, err := os.Stat(filepath.Join(dir, group)); err == nil {
				perChange += info.Size()
			}
		}
		changes := int64(2) // for the end of the merges
		for _, m := range r.state.Members {
			if m.VG == group {
				changes++
			}
		}
		bytes += changes * perChange
	}
	return dirNeed{dir, bytes}
}

// nearestExisting returns the directory, or the nearest one above it that exists.
func nearestExisting(dir string) string {
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// checkSpace refuses a rollback for which Rewind could not write its journal and its units, or LVM its metadata
// (no_space, or unsupported for a read-only file system).
func (r *stepRecorder) checkSpace() error {
	needs, err := r.spaceNeeds()
	if err != nil {
		return err
	}
	var errs []error
	for _, need := range needs {
		errs = append(errs, need.check())
	}
	return fault.All(errs...)
}

// check refuses a file system that is read-only (unsupported), or has too few free bytes or inodes (no_space).
func (n spaceNeed) check() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(nearestExisting(n.dirs[0]), &fs); err != nil {
		return fault.New(fault.Internal, "%s: %w", n.dirs[0], err)
	}
	free, err := durable.Free(nearestExisting(n.dirs[0]))
	if err != nil {
		return fault.New(fault.Internal, "%w", err)
	}
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return fault.New(fault.Unsupported, "%s cannot be written to: the file system is mounted read-only",
			strings.Join(n.dirs, ", ")).
			WithHint("findmnt -T %s shows it; mount -o remount,rw, or see in the kernel's log why it is", n.dirs[0])
	case free < n.bytes:
		return n.tooSmall(ansible.Bytes(free) + " is free")
	case fs.Files > 0 && fs.Ffree < minInodes:
		return n.tooSmall("next to no inode is free")
	}
	return nil
}

// tooSmall returns the fault for a file system without the needed space. what says what is missing.
func (n spaceNeed) tooSmall(what string) error {
	dirs := strings.Join(n.dirs, ", ")
	return fault.New(fault.NoSpace, "a rollback writes up to %s to %s (journal, boot guard, LVM's copies of "+
		"its metadata), and %s there", ansible.Bytes(n.bytes), dirs, what).
		WithHint("make room: df -h %[1]s; df -i %[1]s", strings.ReplaceAll(dirs, ",", ""))
}

// reserveSpace reserves disk space until the rollback needs it or ends, because programs that are not stopped go on
// writing meanwhile.
func (r *stepRecorder) reserveSpace() error {
	if err := r.checkSpace(); err != nil {
		return err
	}
	needs, err := r.spaceNeeds()
	if err != nil {
		return err
	}
	for _, need := range needs {
		f, err := durable.Reserve(nearestExisting(need.dirs[0]), need.bytes)
		if errors.Is(err, unix.EOPNOTSUPP) {
			continue // a copy-on-write file system, for example, cannot reserve space: checkSpace must be enough
		}
		if err != nil {
			r.releaseSpace()
			return need.tooSmall(err.Error())
		}
		r.reservedFiles = append(r.reservedFiles, f)
	}
	return nil
}

// releaseSpace frees the reserved space, and reports whether there was any.
func (r *stepRecorder) releaseSpace() bool {
	had := len(r.reservedFiles) > 0
	for _, f := range r.reservedFiles {
		_ = f.Close()
	}
	r.reservedFiles = nil
	return had
}
