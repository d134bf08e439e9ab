package lvm

import (
	"errors"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
)

func TestParseName(t *testing.T) {
	for _, tt := range []struct{ name, vg, lv string }{
		{"vg00/dat", "vg00", "dat"},
		{"/dev/vg00/dat", "vg00", "dat"},
		{"/dev/mapper/vg00-dat", "vg00", "dat"},
		{"/dev/mapper/my--vg-dat--a.b", "my-vg", "dat-a.b"},
		{"/dev/mapper/a---b", "a-", "b"},
		{"vg-0/l.v+x_y-z", "vg-0", "l.v+x_y-z"},
		{"mapper/x", "mapper", "x"},
	} {
		vg, lv, err := ParseName(tt.name)
		if err != nil || vg != tt.vg || lv != tt.lv {
			t.Errorf("ParseName(%q) = %q, %q, %v", tt.name, vg, lv, err)
		}
	}
}

func TestParseNameRejectsInvalidNames(t *testing.T) {
	for _, name := range []string{
		"", "/", "dat", "/dat", "/dev/dat", "/dev/vg/", "vg/", "/lv", "vg/a/b", "/dev/vg/a/b", "//vg/lv", "/dev//lv",
		"vg/-lv", "-vg/lv", "vg/l v", "vg/lv\n", "vg/lv\x00", "vg/é", "vg/.", "../lv", "vg/[lv]", "vg/lv@x",
		"/dev/mapper/dat", "/dev/mapper/", "/dev/mapper/vg00-dat-real", "/dev/mapper/vg00-dat-cow", "/dev/mapper/-dat",
		"vg/" + strings.Repeat("x", 128), "vg/--yes",
	} {
		if _, _, err := ParseName(name); !errors.Is(err, fault.BadArguments) {
			t.Errorf("ParseName(%q): %v, want bad_arguments", name, err)
		}
	}
}

func TestCheckNew(t *testing.T) {
	for name, ok := range map[string]bool{
		"dat_snap": true, "a-b.c": true, "my_snapshot": true,
		"snapshot1": false, "pvmove0": false, "dat_tmeta": false, "dat_mlog_x": false, "a/b": false, "": false, "-x": false,
		strings.Repeat("x", 118): true,  // 126 with vg- and -real
		strings.Repeat("x", 120): false, // 128
		strings.Repeat("-", 70):  false,
		strings.Repeat("a-", 50): false, // each hyphen counts twice
	} {
		if err := CheckNew("vg", name); (err == nil) != ok {
			t.Errorf("CheckNew(vg, %q): %v", name, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{
		"vg00/dat", "/dev/vg00/dat", "/dev/mapper/my--vg-dat--a.b", "/dev/mapper/a---b", "vg/-x", "//",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		vg, lv, err := ParseName(s)
		if err != nil {
			return
		}
		for _, same := range []string{vg + "/" + lv, "/dev/" + vg + "/" + lv, "/dev/mapper/" + DMName(vg, lv)} {
			if vg == "mapper" && strings.HasPrefix(same, "/dev/mapper/"+lv) {
				continue // /dev/mapper belongs to device-mapper: it is never the directory of a group
			}
			vg2, lv2, err := ParseName(same)
			if err != nil || vg2 != vg || lv2 != lv {
				t.Errorf("%q is %s and %s, but %q is %s and %s (%v)", s, vg, lv, same, vg2, lv2, err)
			}
		}
	})
}
