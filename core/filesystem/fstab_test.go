package filesystem

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const fstabText = `# <file system> <mount point> <type> <options> <dump> <pass>
/dev/mapper/vg00-dat	/dat	xfs	defaults,noatime	0	2

UUID="0a1b-2c"  /my\040data  ext4  rw,context="system_u:object_r:x:s0:c1,c2",nodev
LABEL=a\134b /label auto
/dev/sdz1 /short
alone
/dev/disk/by-uuid/77 /byuuid ext4 defaults 0 2
`

func TestFstabReadsEntries(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fstab")
	if err := os.WriteFile(file, []byte(fstabText), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Fstab(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []FstabEntry{
		{"/dev/mapper/vg00-dat", "/dat", "xfs", []string{"defaults", "noatime"}},
		{"UUID=0a1b-2c", "/my data", "ext4", []string{"rw", `context="system_u:object_r:x:s0:c1,c2"`, "nodev"}},
		{`LABEL=a\b`, "/label", "auto", []string{"defaults"}},
		{"/dev/sdz1", "/short", "auto", []string{"defaults"}},
		{"/dev/disk/by-uuid/77", "/byuuid", "ext4", []string{"defaults"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if none, err := Fstab(file + ".no"); none != nil || err != nil {
		t.Errorf("no file: %v, %v", none, err)
	}
}

func TestFstabWarnsOfUUIDAndLabelLinks(t *testing.T) {
	entries := parseFstab([]byte(fstabText))
	volumes := map[string]string{"/dat": "/dev/vg00/dat", "/my data": "/dev/vg00/my", "/byuuid": "/dev/vg00/u"}
	got := FstabWarnings(entries, volumes)
	if len(got) != 2 || !strings.Contains(got[0], "/my data by UUID=0a1b-2c") ||
		!strings.Contains(got[0], "/dev/vg00/my") ||
		!strings.Contains(got[1], "/byuuid") {
		t.Errorf("warnings: %q", got)
	}
}

func FuzzFstab(f *testing.F) {
	f.Add([]byte(fstabText))
	f.Add([]byte(`a b\04 c d\400 \x ""=" =""`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, e := range parseFstab(data) {
			if e.Spec == "" && !strings.Contains(string(data), `"`) {
				t.Errorf("an entry without a device: %+v", e)
			}
			if e.Point == "" || e.Type == "" {
				t.Errorf("an empty field: %+v", e)
			}
			e.ByContent()
		}
	})
}

// escape escapes blanks and backslashes as the kernel and fstab do.
func escape(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(s)
}

func FuzzUnescape(f *testing.F) {
	f.Add("/my data\t\\040")
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(escape(s)); got != s {
			t.Errorf("%q came back as %q", s, got)
		}
	})
}
