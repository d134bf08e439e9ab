package filesystem

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCrypttab(t *testing.T) {
	got := parseCrypttab(`# <target> <source> <key> <options>

dat	/dev/vg00/dat  /etc/keys/dat  luks,discard
root UUID=1-2 none luks
swap /dev/sda3 - swap,cipher=aes
bare /dev/sdb
lonely
#off /dev/sdc /key
`)
	want := []cryptEntry{
		{name: "dat", device: "/dev/vg00/dat", key: "/etc/keys/dat", options: []string{"luks", "discard"}},
		{name: "root", device: "UUID=1-2", options: []string{"luks"}},
		{name: "swap", device: "/dev/sda3", options: []string{"swap", "cipher=aes"}},
		{name: "bare", device: "/dev/sdb"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(cryptEntry{})); diff != "" {
		t.Error(diff)
	}
}

// A mapping is opened again with the options that it had, whatever set them: crypttab, the LUKS header, or a command.
func TestOpenCryptKeepsOptions(t *testing.T) {
	got := openArguments("/key", "dat", "/dev/vg00/dat", []string{
		"allow_discards", "same_cpu_crypt", "submit_from_crypt_cpus", "no_read_workqueue", "no_write_workqueue",
		"sector_size:4096", "integrity:28:aead",
	})
	want := []string{"cryptsetup", "open", "--batch-mode", "--key-file", "/key", "--allow-discards",
		"--perf-same_cpu_crypt", "--perf-submit_from_crypt_cpus", "--perf-no_read_workqueue", "--perf-no_write_workqueue",
		"--", "/dev/vg00/dat", "dat"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// In any text, an entry has a name and a device, no field contains a blank, and no comment becomes an entry.
func FuzzParseCrypttab(f *testing.F) {
	for _, s := range []string{
		"dat /dev/vg00/dat /key luks", "#x y", "a b none", "a\tb\t-\t,", "\x00 \x00", "a b c d e f\n\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range parseCrypttab(text) {
			for _, field := range append([]string{e.name, e.device, "x" + e.key}, e.options...) {
				if strings.ContainsAny(field, " \t\n") {
					t.Errorf("%q in %q", field, text)
				}
			}
			if e.name == "" || e.device == "" || e.name[0] == '#' || e.key == "none" || e.key == "-" {
				t.Errorf("%+v in %q", e, text)
			}
		}
	})
}

// A snapshot of an encrypted volume has the LUKS UUID of the volume.
func TestCrypttabByUUIDIsWarnedOf(t *testing.T) {
	for device, warned := range map[string]bool{
		"UUID=12-ab": true, "/dev/disk/by-uuid/12-ab": true, "/dev/vg00/safe": false, "/dev/mapper/vg00-safe": false,
	} {
		entries := parseCrypttab("# safe UUID=1\nother UUID=3 none\nsafe " + device + " /root/key luks\n")
		if got := cryptWarning(entries, "safe", "/dev/vg00/safe"); (got != "") != warned {
			t.Errorf("%s: %q", device, got)
		}
	}
}
