package lvm

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Size is how much COW space is asked for: bytes, or a share of something. The
// zero value asks for nothing.
type Size struct {
	bytes   int64
	percent int64 // millionths of a percent of base
	base    string
}

// Space is what a Size may be a share of, in bytes.
type Space struct {
	Origin     int64 // size of the origin
	OriginUsed int64 // bytes its file system uses; 0: not known
	Free       int64 // unallocated in the volume group
	VG         int64 // the whole volume group
	Extent     int64 // the group's extent size
}

// units are LVM's: 1024-based in either case, a bare number is MiB (lvcreate(8), --size).
const units = "bskmgtpe"

const sizeHint = "write a size as 10g, 512M or 2147483648b, or a share as 20%ORIGIN, 30%FREE, 5%VG or 50%USED"

// ParseSize reads lvol's grammar: a number, with a fraction if wanted, and a
// unit (b s k m g t p e in either case, 1024-based; none is MiB), or a
// percentage above 0 and up to 100 of ORIGIN, FREE, VG or USED (what the
// origin's file system uses). Anything else, 0 too, is a bad_arguments fault.
func ParseSize(s string) (Size, error) {
	text := strings.TrimSpace(s)
	if number, base, ok := strings.Cut(text, "%"); ok {
		return parseShare(text, number, strings.ToUpper(base))
	}
	return parseBytes(text)
}

func parseShare(text, number, base string) (Size, error) {
	switch base {
	case "ORIGIN", "FREE", "VG", "USED":
	case "PVS":
		return Size{}, badSize(text, "a share of single PVs is not supported")
	default:
		return Size{}, badSize(text, "a percentage is one of ORIGIN, FREE, VG or USED")
	}
	millionths, ok := scale(number, 1_000_000)
	switch {
	case !ok:
		return Size{}, badSize(text, "no number before the %")
	case millionths == 0:
		return Size{}, badSize(text, "must be more than 0")
	case millionths > 100_000_000:
		return Size{}, badSize(text, "must be at most 100%")
	}
	return Size{percent: millionths, base: base}, nil
}

func parseBytes(text string) (Size, error) {
	number, shift := text, uint(20)
	if text != "" {
		last := strings.ToLower(text[len(text)-1:])
		if i := strings.Index(units, last); i >= 0 {
			number, shift = text[:len(text)-1], unitShift(i)
		}
	}
	bytes, ok := scale(number, 1<<shift)
	if !ok {
		return Size{}, badSize(text, "is no size, as 10g, 512m and 20%ORIGIN are, or one beyond 8 EiB")
	}
	if bytes == 0 {
		return Size{}, badSize(text, "must be more than 0")
	}
	return Size{bytes: bytes}, nil
}

// unitShift turns an index into units into a power of two: b is a byte, s a
// sector, then 1024 each.
func unitShift(i int) uint {
	if i == 1 {
		return 9
	}
	return uint(max(i-1, 0)) * 10
}

// scale reads digits with an optional fraction and multiplies by unit, rounding
// up. It reports false for anything else and for more than an int64 holds.
func scale(number string, unit uint64) (int64, bool) {
	whole, fraction, dotted := strings.Cut(number, ".")
	if !digits(whole) || dotted && !digits(fraction) || len(fraction) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil {
		return 0, false
	}
	high, low := bits.Mul64(n, unit)
	part := uint64(0)
	if fraction != "" {
		part = scaleFraction(fraction, unit)
	}
	sum, carry := bits.Add64(low, part, 0)
	if high != 0 || carry != 0 || sum > math.MaxInt64 {
		return 0, false
	}
	return int64(sum), true
}

// scaleFraction multiplies 0.fraction by unit, rounding up. The fraction has at
// most nine digits, so the 128-bit product's quotient fits: it is below unit.
func scaleFraction(fraction string, unit uint64) uint64 {
	numerator, denominator := uint64(0), uint64(1)
	for i := 0; i < len(fraction); i++ {
		numerator = numerator*10 + uint64(fraction[i]-'0')
		denominator *= 10
	}
	high, low := bits.Mul64(numerator, unit)
	quotient, remainder := bits.Div64(high, low, denominator)
	if remainder > 0 {
		quotient++
	}
	return quotient
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func badSize(text, problem string) error {
	return fault.New(fault.BadArguments, "size %q: %s", text, problem).WithHint("%s", sizeHint)
}

// Base returns what the size is a share of: ORIGIN, FREE, VG, USED, or "" for a size in bytes.
func (s Size) Base() string { return s.base }

// Bytes returns the COW space in bytes, rounded up to whole extents. Shares of
// ORIGIN and USED get the COW's own metadata on top, so that 100%ORIGIN can
// never overflow; for ORIGIN that is lvcreate's arithmetic to the extent. The
// result may be 0 (a share of nothing free) or more than there is: the caller
// compares with the free space and with MaxCOW.
func (s Size) Bytes(of Space) int64 {
	switch s.base {
	case "":
		return addUp(s.bytes, of.Extent)
	case "FREE":
		return roundUp(s.share(of.Free), of.Extent)
	case "VG":
		return roundUp(s.share(of.VG), of.Extent)
	case "USED":
		return roundUp(cowFor(s.share(of.OriginUsed), Chunk), of.Extent)
	}
	metadata := MaxCOW(of.Origin, Chunk, of.Extent) - of.Origin
	return metadata + roundUp(s.share(of.Origin), of.Extent)
}

// share returns the percentage of n, rounded up. Percent is at most 100, so
// neither division nor result can overflow.
func (s Size) share(n int64) int64 {
	const whole = 100_000_000
	if n <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(n), uint64(s.percent))
	quotient, remainder := bits.Div64(high, low, whole)
	if remainder > 0 {
		quotient++
	}
	return int64(quotient)
}

// addUp is roundUp for numbers a user wrote, which may be near the end of an int64.
func addUp(n, unit int64) int64 {
	if n > math.MaxInt64-unit {
		return n
	}
	return roundUp(n, unit)
}
