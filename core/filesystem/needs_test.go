package filesystem

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// mke2fs makes superblocks of ext. Those of XFS and btrfs are written here, by the documented offsets.
func TestNeedsOfEachFileSystem(t *testing.T) {
	image := func(args ...string) Needs {
		t.Helper()
		file := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, 8<<20); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("mke2fs", append(append([]string{"-q", "-F"}, args...), file)...)
		cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/sbin:/usr/bin:/bin")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		needs, err := NeedsOf(file)
		if err != nil {
			t.Fatal(err)
		}
		return needs
	}
	if got := image("-t", "ext4"); got != (Needs{}) {
		t.Errorf("ext4: %+v", got)
	}
	if got := image("-t", "ext2"); got != (Needs{}) {
		t.Errorf("ext2: %+v", got)
	}
	if got := image("-O", "journal_dev", "-b", "4096"); got != (Needs{IsJournal: true}) {
		t.Errorf("a journal: %+v", got)
	}
	block := make([]byte, superblockLength)
	sb := block[1024:]
	binary.LittleEndian.PutUint16(sb[56:], 0xEF53)
	binary.LittleEndian.PutUint32(sb[92:], 0x4)
	binary.LittleEndian.PutUint32(sb[228:], 0xfd04) // as dumpe2fs shows it: Journal device: 0xfd04
	if got := parseNeeds(block); got != (Needs{Journal: true, JournalOn: Dev{253, 4}}) {
		t.Errorf("ext4 with its journal elsewhere: %+v", got)
	}
	xfs := make([]byte, superblockLength)
	copy(xfs, "XFSB")
	if got := parseNeeds(xfs); got != (Needs{Log: true}) {
		t.Errorf("XFS with its log elsewhere: %+v", got)
	}
	binary.BigEndian.PutUint64(xfs[48:], 131079)
	if got := parseNeeds(xfs); got != (Needs{}) {
		t.Errorf("XFS: %+v", got)
	}
	binary.BigEndian.PutUint64(xfs[16:], 1000)
	if got := parseNeeds(xfs); got != (Needs{RealTime: true}) {
		t.Errorf("XFS with a real-time device: %+v", got)
	}
	large := make([]byte, btrfsOffset+superblockLength)
	copy(large[btrfsOffset+64:], "_BHRfS_M")
	if got := parseNeeds(large); got != (Needs{Btrfs: true}) {
		t.Errorf("btrfs: %+v", got)
	}
	if got := parseNeeds(make([]byte, 100)); got != (Needs{}) {
		t.Errorf("too short: %+v", got)
	}
}
