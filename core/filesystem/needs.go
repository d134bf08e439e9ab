package filesystem

import (
	"encoding/binary"
	"io"
	"os"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Needs is what a superblock says about other devices: a file system whose log lies elsewhere is nothing without it,
// and the log of another file system nothing by itself.
type Needs struct {
	Log       bool // XFS: its log is on another device, which the superblock does not name
	RealTime  bool // XFS: it has a real-time device, likewise
	Journal   bool // ext3, ext4: its journal is on another device
	JournalOn Dev  // that device as it was numbered when the journal was last opened
	IsJournal bool // it is itself such a journal
	Btrfs     bool // one of a file system that may have several devices
}

// superblockLength holds the superblocks that NeedsOf knows; that of btrfs lies further back.
const (
	superblockLength = 4096
	btrfsAt          = 64 << 10
)

// NeedsOf reads the superblock of a block device. What it does not know needs nothing. It must not be asked of a
// suspended device, which would make it wait.
func NeedsOf(device string) (Needs, error) {
	f, err := os.Open(device)
	if err != nil {
		return Needs{}, fault.New(fault.Of(err).Code, "read the superblock: %w", err)
	}
	defer f.Close()
	block := make([]byte, btrfsAt+superblockLength)
	n, err := io.ReadFull(f, block)
	if n >= superblockLength {
		err = nil // it is smaller than any btrfs
	}
	if err != nil {
		return Needs{}, fault.New(fault.CommandFailed, "read the superblock of %s: %w", device, err)
	}
	return parseNeeds(block[:n]), nil
}

// parseNeeds reads XFS's superblock (linux, fs/xfs/libxfs/xfs_format.h, struct xfs_dsb), that of ext2 to ext4 (linux,
// Documentation/filesystems/ext4/super.rst) or knows that of btrfs (linux, include/uapi/linux/btrfs_tree.h).
func parseNeeds(block []byte) Needs {
	if len(block) < superblockLength {
		return Needs{}
	}
	const realTimeBlocks, logStart = 16, 48
	if string(block[:4]) == "XFSB" {
		return Needs{
			Log:      binary.BigEndian.Uint64(block[logStart:]) == 0,
			RealTime: binary.BigEndian.Uint64(block[realTimeBlocks:]) != 0,
		}
	}
	const btrfsMagic = 64
	if len(block) > btrfsAt+btrfsMagic && strings.HasPrefix(string(block[btrfsAt+btrfsMagic:]), "_BHRfS_M") {
		return Needs{Btrfs: true}
	}
	const (
		ext, magic            = 1024, 56
		compatible, journaled = 92, 0x4
		incompatible, journal = 96, 0x8
		inode, device         = 224, 228
	)
	sb := block[ext:]
	number := func(at int) uint32 { return binary.LittleEndian.Uint32(sb[at:]) }
	switch {
	case binary.LittleEndian.Uint16(sb[magic:]) != 0xEF53:
		return Needs{}
	case number(incompatible)&journal != 0:
		return Needs{IsJournal: true}
	case number(compatible)&journaled == 0 || number(inode) != 0:
		return Needs{}
	}
	n := number(device) // linux, include/linux/kdev_t.h, new_decode_dev
	return Needs{Journal: true, JournalOn: Dev{n & 0xfff00 >> 8, n&0xff | n>>12&0xfff00}}
}
