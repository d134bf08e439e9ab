package lvm

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// listEntry encodes an entry of a list of devices: the number, the distance to the next entry, and the name, padded to
// a multiple of eight bytes (linux/dm-ioctl.h, dm_name_list).
func listEntry(device uint64, name string, last bool) []byte {
	b := append(make([]byte, 12), name...)
	b = append(b, make([]byte, 8-len(b)%8)...)
	binary.NativeEndian.PutUint64(b, device)
	if !last {
		binary.NativeEndian.PutUint32(b[8:], uint32(len(b)))
	}
	return b
}

func TestAnswerNames(t *testing.T) {
	both := append(listEntry(1, "vg00-dat", false), listEntry(2, "vg00-dat_snap", true)...)
	for _, c := range []struct {
		data []byte
		want []string
	}{
		{both, []string{"vg00-dat", "vg00-dat_snap"}},
		{make([]byte, 16), nil}, // no device at all
		{both[:20], []string{"vg00-dat"}},
		{nil, nil},
	} {
		if diff := cmp.Diff(c.want, answer{data: c.data}.names()); diff != "" {
			t.Error(diff)
		}
	}
}

// encodedTarget encodes one target of a table's status: a dm_target_spec, followed by the target's arguments.
func encodedTarget(start, length uint64, kind, words string, next int) []byte {
	b := make([]byte, unix.SizeofDmTargetSpec)
	binary.NativeEndian.PutUint64(b, start)
	binary.NativeEndian.PutUint64(b[8:], length)
	binary.NativeEndian.PutUint32(b[20:], uint32(next))
	copy(b[24:], kind)
	return append(append(b, words...), 0)
}

func TestAnswerDevice(t *testing.T) {
	a := answer{}
	a.Target_count, a.Open_count, a.Flags, a.Dev = 2, 1, unix.DM_SUSPEND_FLAG, unix.Mkdev(254, 3)
	copy(a.Uuid[:], "LVM-abc")
	first := encodedTarget(0, 8, "snapshot-merge", "16/614400 16", 56)
	a.data = append(append(first, make([]byte, 56-len(first))...), encodedTarget(8, 16, "linear", "", 112)...)
	want := Device{
		Info: Info{UUID: "LVM-abc", Major: 254, Minor: 3, Open: 1, Suspended: true},
		Targets: []Target{
			{Start: 0, Length: 8, Type: "snapshot-merge", Args: []string{"16/614400", "16"}},
			{Start: 8, Length: 16, Type: "linear", Args: []string{}},
		},
	}
	got, err := a.device()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	a.Target_count = 3
	if _, err := a.device(); err == nil {
		t.Error("a third target was read from beyond the end")
	}
}

// The content of the kernel's answer is trusted, except for offsets that point outside the buffer.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{0: 1, 8: 16, 12: 'a', 40: 0}, uint32(1))
	f.Add(make([]byte, 120), uint32(3))
	f.Fuzz(func(t *testing.T, data []byte, targets uint32) {
		a := answer{data: data}
		for _, name := range a.names() {
			if len(name) > len(data) {
				t.Errorf("a name of %d bytes in %d", len(name), len(data))
			}
		}
		a.Target_count = targets
		d, err := a.device()
		if err == nil && len(d.Targets) != int(targets) {
			t.Errorf("%d targets of %d", len(d.Targets), targets)
		}
	})
}
