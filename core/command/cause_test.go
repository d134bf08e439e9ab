package command

import (
	"errors"
	"testing"
)

// The outputs are those of the programs on Debian 12 and 13.
func TestCauseLine(t *testing.T) {
	for _, tt := range []struct{ name, program, stderr, want string }{
		{
			"LVM, a cause and its consequence", "lvm",
			"  WARNING: This metadata update is NOT backed up.\n" +
				"  Volume vg00/p_s is not active locally (volume_list activation filter?).\n" +
				"  Aborting. Failed to wipe snapshot exception store.\n",
			"Volume vg00/p_s is not active locally (volume_list activation filter?).",
		},
		{
			"LVM, only warnings", "lvm", "  WARNING: lvmlockd process is not running.\n",
			"WARNING: lvmlockd process is not running.",
		},
		{
			"device-mapper", "dmsetup", "device-mapper: resume ioctl on x  failed: Device or resource busy\nCommand failed.\n",
			"device-mapper: resume ioctl on x  failed: Device or resource busy",
		},
		{
			"mount, advice after the cause", "mount",
			"mount: /mnt: wrong fs type, bad option, bad superblock on /dev/mapper/vg00-x.\n" +
				"       dmesg(1) may have more information after failed mount system call.\n",
			"/mnt: wrong fs type, bad option, bad superblock on /dev/mapper/vg00-x.",
		},
		{
			"mount, a hint before the cause", "mount",
			"mount: (hint) your fstab has been modified, but systemd still uses\n" +
				"       the old version; use 'systemctl daemon-reload' to reload.\nmount: /mnt: mount point does not exist.\n",
			"/mnt: mount point does not exist.",
		},
		{
			"cryptsetup", "cryptsetup", "No key available with this passphrase.\nCommand failed.\n",
			"No key available with this passphrase.",
		},
		{"cryptsetup, only the consequence", "cryptsetup", "Command failed.\n", "Command failed."},
		{
			"rsync", "rsync", "rsync: [sender] change_dir \"/x\" failed: No such file or directory (2)\n" +
				"rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1338)\n",
			"[sender] change_dir \"/x\" failed: No such file or directory (2)",
		},
		{
			"tar", "tar", "tar: Removing leading `/' from member names\ntar: /x: Cannot stat: No such file or directory\n" +
				"tar: Exiting with failure status due to previous errors\n",
			"/x: Cannot stat: No such file or directory",
		},
		{"a program that is not in notCauses", "sh", "first\nlast\n", "last"},
		{"no output", "lvm", " \n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := causeLine(tt.program, tt.stderr); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			failed := &Error{Argv: []string{tt.program}, Code: -1, Stderr: tt.stderr, Err: errors.New("died")}
			want := tt.program + ": died"
			if tt.want != "" {
				want += ": " + tt.want
			}
			if failed.Error() != want {
				t.Errorf("got  %q\nwant %q", failed.Error(), want)
			}
		})
	}
}
