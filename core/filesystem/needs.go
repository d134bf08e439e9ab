package filesystem

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Needs is what a superblock says about other devices: a file system whose log is on another device is useless without
// it, and a device that holds the log of another file system is useless alone.
type Needs struct {
	Log       bool // XFS: the log is on another device, which the superblock does not name
	RealTime  bool // XFS: it has a real-time device, which the superblock does not name
	Journal   bool // ext3, ext4: the journal is on another device
	JournalOn Dev  // ext3, ext4: the number that this device had when the journal was last opened
	IsJournal bool // the device is the journal of another file system
	Btrfs     bool // it is btrfs, which may have several devices
}

// The superblocks of XFS and ext lie in the first superblockLength bytes of a device; that of btrfs is at btrfsOffset.
const (
	superblockLength = 4096
	btrfsOffset      = 64 << 10
)

// NeedsOf reads the superblock of the block device at a path. For an unknown file system it returns the zero Needs. It
// must not be called for a suspended device, because the read would block. Faults: command_failed if the superblock
// cannot be read, and what fault.Of finds in the error of opening the device.
func NeedsOf(device string) (Needs, error) {
	f, err := os.Open(device)
	if err != nil {
		return Needs{}, fault.New(fault.Of(err).Code, "read the superblock: %w", err)
	}
	defer f.Close()
	block := make([]byte, btrfsOffset+superblockLength)
	n, err := io.ReadFull(f, block)
	if errors.Is(err, io.ErrUnexpectedEOF) && n >= superblockLength {
		err = nil // the device is too small for btrfs, and XFS or ext may be on it
	}
	if err != nil {
		return Needs{}, fault.New(fault.CommandFailed, "read the superblock of %s: %w", device, err)
	}
	return parseNeeds(block[:n]), nil
}

// parseNeeds parses the superblock of XFS (linux, fs/xfs/libxfs/xfs_format.h, struct xfs_dsb) and that of ext2 to ext4
// (linux, Documentation/filesystems/ext4/super.rst), and recognizes btrfs (linux, include/uapi/linux/btrfs_tree.h).
func parseNeeds(block []byte) Needs {
	if len(block) < superblockLength {
		return Needs{}
	}
	const realTimeBlocksAt, logStartAt = 16, 48
	if string(block[:4]) == "XFSB" {
		return Needs{
			Log:      binary.BigEndian.Uint64(block[logStartAt:]) == 0,
			RealTime: binary.BigEndian.Uint64(block[realTimeBlocksAt:]) != 0,
		}
	}
	const btrfsMagicAt = 64
	if len(block) > btrfsOffset+btrfsMagicAt && strings.HasPrefix(string(block[btrfsOffset+btrfsMagicAt:]), "_BHRfS_M") {
		return Needs{Btrfs: true}
	}
	const (
		extSuperblockAt, magicAt        = 1024, 56
		compatAt, hasJournal            = 92, 0x4
		incompatAt, isJournalDevice     = 96, 0x8
		journalInodeAt, journalDeviceAt = 224, 228
	)
	superblock := block[extSuperblockAt:]
	number := func(at int) uint32 { return binary.LittleEndian.Uint32(superblock[at:]) }
	switch {
	case binary.LittleEndian.Uint16(superblock[magicAt:]) != 0xEF53:
		return Needs{}
	case number(incompatAt)&isJournalDevice != 0:
		return Needs{IsJournal: true}
	case number(compatAt)&hasJournal == 0 || number(journalInodeAt) != 0:
		return Needs{}
	}
	n := number(journalDeviceAt) // linux, include/linux/kdev_t.h, new_decode_dev
	return Needs{Journal: true, JournalOn: Dev{n & 0xfff00 >> 8, n&0xff | n>>12&0xfff00}}
}
