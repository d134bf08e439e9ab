package ansible_test

import (
	"testing"

	"go.pcc.com/rewind/core/ansible"
)

func TestBytesUsesBinaryUnits(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB",
		1 << 30: "1.0 GiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := ansible.Bytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestAgeIsRoundedDown(t *testing.T) {
	for seconds, want := range map[int64]string{0: "0 s", 59: "59 s", 60: "1 min", 7260: "2 h 1 min",
		172799: "47 h 59 min", 200000: "2 d"} {
		if got := ansible.Age(seconds); got != want {
			t.Errorf("%d: %s, want %s", seconds, got, want)
		}
	}
}
