package backup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
)

// A copy of a virtual machine has the same machine-id and another product_uuid, and a reinstalled server the other way
// round. Neither is the machine that it was.
func TestMachineIsIDAndHardware(t *testing.T) {
	seen := map[string]string{}
	for name, files := range map[string]map[string]string{
		"one":         {"etc/machine-id": "1\n", "sys/class/dmi/id/product_uuid": "a\n"},
		"copy":        {"etc/machine-id": "1\n", "sys/class/dmi/id/product_uuid": "b\n"},
		"reinstalled": {"etc/machine-id": "2\n", "sys/class/dmi/id/product_uuid": "a\n"},
		"no DMI":      {"etc/machine-id": "1\n"},
		"board":       {"etc/machine-id": "1\n", "sys/firmware/devicetree/base/serial-number": "10000000a\x00"},
		"first boot":  {"etc/machine-id": "uninitialized\n", "sys/class/dmi/id/product_uuid": "a\n"},
	} {
		root := t.TempDir()
		for file, content := range files {
			path := filepath.Join(root, file)
			err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600))
			if err != nil {
				t.Fatal(err)
			}
		}
		machine := machineBelow(root)
		if other, taken := seen[machine]; taken || machine == "" || machine != machineBelow(root) {
			t.Errorf("%s is %q, as is %q", name, machine, other)
		}
		seen[machine] = name
		if strings.ContainsAny(hardwareBelow(root), "\n\x00") {
			t.Errorf("%s: %q", name, hardwareBelow(root))
		}
	}
	if nothing := t.TempDir(); machineBelow(nothing) != "" || hardwareBelow(nothing) != "" {
		t.Errorf("nothing is known, and gives %q", machineBelow(nothing))
	}
}

func TestOtherMachineIsRefused(t *testing.T) {
	for _, known := range [][2]string{{"", ""}, {"", "a"}, {"a", ""}, {"a", "a"}} {
		if err := RefuseOtherMachine(known[0], known[1], "web", "/b/web/.machine"); err != nil {
			t.Errorf("%q: %v", known, err)
		}
	}
	f := fault.Of(RefuseOtherMachine("a", "b", "web", "/b/web/.machine"))
	if f == nil || f.Code != fault.Exists || !strings.Contains(f.Hint, "host=NAME") ||
		!strings.Contains(f.Hint, "remove /b/web/.machine") {
		t.Errorf("got %v", f)
	}
}
