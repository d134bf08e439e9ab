package lvm

import (
	"errors"
	"math"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

func TestSizeBytes(t *testing.T) {
	space := Space{Origin: gib, OriginUsed: 100 * mib, Free: 500 * mib, VG: 4 * gib, Extent: 4 * mib}
	for _, tt := range []struct {
		text string
		want int64
	}{
		{"10g", 10 * gib}, {"10G", 10 * gib}, {"512M", 512 * mib}, {"512", 512 * mib}, {"2147483648b", 2 * gib},
		{"8192s", 4 * mib}, {"1k", 4 * mib}, {"1.5g", 1536 * mib}, {"0.1m", 4 * mib}, {"5", 8 * mib}, {" 8m ", 8 * mib},
		{"1t", 1 << 40}, {"1p", 1 << 50}, {"7e", 7 << 60},
		{"100%FREE", 500 * mib}, {"30%FREE", 152 * mib}, {"0.01%FREE", 4 * mib}, {"5%VG", 208 * mib}, {"5%vg", 208 * mib},
		{"100%ORIGIN", MaxCOW(gib, Chunk, 4*mib)},
		{"20%ORIGIN", 208*mib + 8*mib}, // 204.8 MiB, and the 8 MiB of metadata that COW space for all of the origin has
		{"100%USED", 104 * mib},        // 100 MiB and 411 chunks of metadata
	} {
		s, err := ParseSize(tt.text)
		if err != nil {
			t.Errorf("ParseSize(%q): %v", tt.text, err)
			continue
		}
		if got := s.Bytes(space); got != tt.want {
			t.Errorf("%s is %d bytes (%d MiB), want %d", tt.text, got, got/mib, tt.want)
		}
	}
}

func TestParseSizeRejectsInvalidSizes(t *testing.T) {
	for _, text := range []string{
		"", "0", "0g", "0.0", "-1g", "+1g", "g", "10gb", "10 g", "1e3g", "0x10", "1,5g", ".5g", "1.g", "10z", "8e", "NaN",
		"99999999999999999999", "120%FREE", "0%FREE", "100.1%ORIGIN", "-5%VG", "%FREE", "5%", "5%PVS", "5%LV", "5%%FREE",
		"1.0000000001g", "٣g", "10g\x00",
	} {
		_, err := ParseSize(text)
		if !errors.Is(err, fault.BadArguments) {
			t.Errorf("ParseSize(%q): %v, want bad_arguments", text, err)
		}
		if f := fault.Of(err); strings.Contains(f.Msg+f.Hint, "!") {
			t.Errorf("an argument does not fit the format of %q %q", f.Msg, f.Hint)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"10g", "1.5m", "20%ORIGIN", "0.000001%FREE", "7e", "9223372036854775807b", "100%USED"} {
		f.Add(s, int64(gib), int64(4*mib))
	}
	f.Fuzz(func(t *testing.T, text string, n, extent int64) {
		s, err := ParseSize(text)
		if err != nil {
			return
		}
		// As in real groups: extents of at least 1 KiB, at most 2^32 of them, and volumes of whole extents.
		extent = 1024 << (uint64(extent) % 14)
		n = int64(uint64(n)%(1<<32)) * extent
		got := s.Bytes(Space{Origin: n, OriginUsed: n, Free: n, VG: n, Extent: extent})
		switch {
		case got < 0:
			t.Errorf("%q of %d is %d", text, n, got)
		case got%extent != 0 && got < math.MaxInt64-extent:
			t.Errorf("%q is %d bytes, no multiple of the extent %d", text, got, extent)
		case s.Base() == "ORIGIN" && got > MaxCOW(n, Chunk, extent), s.Base() == "FREE" && got > n:
			t.Errorf("%q of %d is %d: more than there is", text, n, got)
		}
	})
}

// The figures are those that lvcreate printed: "Reducing COW size … down to maximum usable size".
func TestMaxCOWIsThatOfLvcreate(t *testing.T) {
	for _, tt := range []struct{ origin, extents int64 }{
		{gib, 258}, {512 * mib, 129}, {64 * mib, 17},
	} {
		if got := MaxCOW(tt.origin, Chunk, 4*mib); got != tt.extents*4*mib {
			t.Errorf("MaxCOW(%d MiB) = %d extents, LVM says %d", tt.origin/mib, got/(4*mib), tt.extents)
		}
	}
	if got := MaxCOW(gib, 0, 0); got != 263170*4096 {
		t.Errorf("unrounded: %d", got)
	}
}
