package lvm

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The two files are the metadata of LVM 2.03.16 before and after `lvconvert --merge vg01/ts vg01/s` of open volumes.
func TestWithoutMergesIgnoresOnlyTheNamedMerges(t *testing.T) {
	before, err1 := os.ReadFile("testdata/d12/metadata-before-merges")
	after, err2 := os.ReadFile("testdata/d12/metadata-merges-wait")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	same := func(change func(string) string, names ...string) bool {
		return slices.Equal(withoutMerges(before, names), withoutMerges([]byte(change(string(after))), names))
	}
	unchanged := func(s string) string { return s }
	if !same(unchanged, "s", "o", "ts", "thin") {
		t.Error("the merges themselves count as changes")
	}
	if same(unchanged, "s", "o") || same(unchanged, "ts", "thin") {
		t.Error("the merge of another volume does not count as a change")
	}
	replaced := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("%q is not in the metadata", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	for _, change := range [][2]string{
		{"extent_count = 16\t", "extent_count = 17\t"}, {"transaction_id = 2", "transaction_id = 3"},
		{"\t\to {", "\t\tp {"}, {`status = ["READ", "WRITE"`, `status = ["READ"`}, {`origin = "o"`, `origin = "p"`},
	} {
		if same(replaced(change[0], change[1]), "s", "o", "ts", "thin") {
			t.Errorf("%q in place of %q does not count as a change", change[1], change[0])
		}
	}
	volumes := withoutMerges(before, nil)
	o, thin, none := thinDeviceID(volumes, "o"), thinDeviceID(volumes, "thin"), thinDeviceID(volumes, "pv0")
	if o != "" || thin != "1" || none != "" {
		t.Errorf("the pool knows o as %q, thin as %q, pv0 as %q", o, thin, none)
	}
	if b, a := seqnoLine(before), seqnoLine(after); b != "\tseqno = 11\n" || a != "\tseqno = 13\n" {
		t.Errorf("%q, %q", b, a)
	}
	// Somebody has swapped the names of two volumes.
	swapped := func(s string) string {
		s = strings.Replace(s, "\t\to {", "\t\t@ {", 1)
		s = strings.Replace(s, "\t\tthin {", "\t\to {", 1)
		return strings.Replace(s, "\t\t@ {", "\t\tthin {", 1)
	}
	if same(swapped, "s", "o", "ts", "thin") {
		t.Error("swapped names do not count as a change")
	}
}
