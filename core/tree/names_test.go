package tree

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestNamesAddSortAndFind(t *testing.T) {
	var n names
	var want []string
	for i := range 5000 {
		name := strings.Repeat("n", 1+i%240) + fmt.Sprint(i*7919%5000) // more than one chunk, in no order
		n.add(name)
		want = append(want, name)
	}
	n.sort()
	slices.Sort(want)
	for i, name := range want {
		if got := n.get(i); got != name {
			t.Fatalf("%d is %q, not %q", i, got, name)
		}
		if !n.has(name) || n.has(name+"x") {
			t.Fatalf("has is wrong about %q", name)
		}
	}
	if n.len() != len(want) || n.has("") {
		t.Errorf("%d names", n.len())
	}
}

// The list comes from a file system, which may be a FUSE program.
func FuzzSplitNames(f *testing.F) {
	f.Add([]byte("user.a\x00system.posix_acl_access\x00system.nfs4_acl\x00security.selinux\x00"))
	f.Add([]byte("\x00\x00user.\xff\x00unterminated"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, list []byte) {
		names := splitNames(list)
		for _, name := range names {
			if name == "" || strings.ContainsRune(name, 0) || !bytes.Contains(list, []byte(name)) {
				t.Errorf("%q out of %q", name, list)
			}
			if strings.HasPrefix(name, "system.") && !strings.HasPrefix(name, "system.posix_acl_") {
				t.Errorf("%q is not a file's own", name)
			}
		}
		for _, part := range bytes.Split(list, []byte{0}) {
			if bytes.HasPrefix(part, []byte("user.")) && !slices.Contains(names, string(part)) {
				t.Errorf("%q is lost of %q", part, list)
			}
		}
	})
}

func FuzzDiffering(f *testing.F) {
	f.Add(bytes.Repeat([]byte("a"), 3*Block), uint16(5), byte(1))
	f.Add(make([]byte, Block+1), uint16(Block), byte(7))
	f.Add([]byte("x"), uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, a []byte, at uint16, change byte) {
		if len(a) == 0 || len(a) > 8*Block {
			return
		}
		b := bytes.Clone(a)
		b[int(at)%len(b)] ^= change
		end, total := 0, 0
		err := forEachDifference(a, b, func(lo, hi int) error {
			if lo%Block != 0 || lo < end || hi <= lo || hi > len(a) || hi%Block != 0 && hi != len(a) {
				t.Errorf("[%d, %d) after %d, of %d", lo, hi, end, len(a))
			}
			end, total = hi, total+hi-lo
			copy(b[lo:hi], a[lo:hi])
			return nil
		})
		if err != nil || !bytes.Equal(a, b) || total > Block || change == 0 && total > 0 {
			t.Errorf("%d bytes for one that differs, %v", total, err)
		}
	})
}
