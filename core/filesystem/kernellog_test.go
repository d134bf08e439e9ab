package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// The records are those that Linux 6.1 and 6.12 wrote.
func TestKernelLogReturnsNewMessagesAboutTheDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	before := "3,1,1,-;XFS (dm-3): an old trouble\n"
	after := "5,2,2,-;XFS (dm-3): Mounting V5 Filesystem\n" +
		"4,3,3,-;XFS (dm-30): Filesystem has duplicate UUID aaaa - can't mount\n" +
		"4,4,4,-;XFS (dm-3): Filesystem has duplicate UUID bbbb - can't mount\n SUBSYSTEM=block\n" +
		"12,5,5,-;systemd[1]: nothing of ours\n" +
		"3,6,6,-;I/O error, dev dm-3, sector 0 op 0x0:(READ)\n" +
		"3,7,7,-;XFS (dm-3): Filesystem has duplicate UUID bbbb - can't mount\n" +
		"3,8,8,-;EXT4-fs: Unrecognized mount option \"x\" or missing value\n"
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	log := openKernelLog(path)
	defer log.close()
	if err := os.WriteFile(path, []byte(before+after), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"XFS (dm-3): Filesystem has duplicate UUID bbbb - can't mount", "I/O error, dev dm-3, sector 0 op 0x0:(READ)",
	}
	if diff := cmp.Diff(want, log.messagesAbout("dm-3", "xfs")); diff != "" {
		t.Error(diff)
	}
	if !isAbout(`EXT4-fs: Unrecognized mount option "x"`, "dm-9", "ext4") ||
		isAbout("EXT4-fs (dm-1): x", "dm-9", "ext4") {
		t.Error("a line that names only the type of the file system is not recognized")
	}
	if said := openKernelLog(filepath.Join(t.TempDir(), "none")).messagesAbout("dm-3", "xfs"); said != nil {
		t.Errorf("without a log: %q", said)
	}
}

func TestMountFaultHasTheKernelsCauseAndAHint(t *testing.T) {
	stderr := "mount: /mnt: wrong fs type, bad option, bad superblock on /dev/x.\n" +
		"       dmesg(1) may have more information after failed mount system call.\n"
	failed := &command.Error{Argv: []string{"mount"}, Code: 32, Err: errors.New("exit status 32"), Stderr: stderr}
	kernel := []string{"XFS (dm-3): Filesystem has duplicate UUID b"}
	f := fault.Of(mountFault(failed, "/dev/x", MountSpec{Point: "/mnt"}, kernel))
	if f.Code != fault.MountFailed || strings.Contains(f.Msg, "dmesg") || !strings.Contains(f.Msg, "wrong fs type") ||
		!strings.Contains(f.Msg, "XFS (dm-3)") || !strings.Contains(f.Hint, "nouuid") || f.Facts["kernel"] == nil {
		t.Errorf("%s (%s) %v", f.Msg, f.Hint, f.Facts)
	}
	f = fault.Of(mountFault(failed, "/dev/x", MountSpec{Point: "/mnt"}, nil))
	if !strings.HasSuffix(f.Msg, "bad superblock on /dev/x.") || f.Hint == "" {
		t.Errorf("%s (%s)", f.Msg, f.Hint)
	}
}
