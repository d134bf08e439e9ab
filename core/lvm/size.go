package lvm

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Size is how much COW space a user asks for: a number of bytes, or a share of something. The zero value asks for
// nothing.
type Size struct {
	bytes      int64
	millionths int64 // millionths of a percent of base
	base       string
}

// Space has what a Size may be a share of, and the extent size that it is rounded to. All values are bytes.
type Space struct {
	Origin     int64 // the size of the origin
	OriginUsed int64 // what the origin's file system uses; 0: unknown
	Free       int64 // what is unallocated in the volume group
	VG         int64 // the size of the volume group
	Extent     int64 // the extent size of the volume group
}

// units are LVM's units, in the order of unitShift. They are 1024-based in upper and lower case, and a bare number is
// MiB (lvcreate(8), --size).
const units = "bskmgtpe"

const sizeHint = "write a size as 10g, 512M or 2147483648b, or a share as 20%ORIGIN, 30%FREE, 5%VG or 50%USED"

// ParseSize parses a size in the syntax of Ansible's community.general.lvol. It is a number, which may have a fraction,
// with a unit (b s k m g t p e in upper or lower case, 1024-based; without a unit MiB). Or it is a percentage above 0
// and up to 100 of ORIGIN, FREE, VG or USED (what the origin's file system uses). Fault: bad_arguments for anything
// else, and for 0.
func ParseSize(s string) (Size, error) {
	text := strings.TrimSpace(s)
	if number, base, ok := strings.Cut(text, "%"); ok {
		return parseShare(text, number, strings.ToUpper(base))
	}
	return parseBytes(text)
}

// parseShare parses number, the percentage, and base, what it is a percentage of. text is the whole size, for an error.
func parseShare(text, number, base string) (Size, error) {
	switch base {
	case "ORIGIN", "FREE", "VG", "USED":
	case "PVS":
		return Size{}, badSize(text, "a share of single PVs is not supported")
	default:
		return Size{}, badSize(text, "a percentage is one of ORIGIN, FREE, VG or USED")
	}
	millionths, ok := parseScaled(number, 1_000_000)
	switch {
	case !ok:
		return Size{}, badSize(text, "no number before the %")
	case millionths == 0:
		return Size{}, badSize(text, "must be more than 0")
	case millionths > 100_000_000:
		return Size{}, badSize(text, "must be at most 100%")
	}
	return Size{millionths: millionths, base: base}, nil
}

// parseBytes parses a number with a unit.
func parseBytes(text string) (Size, error) {
	number, shift := text, uint(20)
	if text != "" {
		last := strings.ToLower(text[len(text)-1:])
		if i := strings.Index(units, last); i >= 0 {
			number, shift = text[:len(text)-1], unitShift(i)
		}
	}
	size, ok := parseScaled(number, 1<<shift)
	if !ok {
		return Size{}, badSize(text, "is not a size such as 10g, 512m or 20%ORIGIN, or is beyond 8 EiB")
	}
	if size == 0 {
		return Size{}, badSize(text, "must be more than 0")
	}
	return Size{bytes: size}, nil
}

// unitShift returns the binary logarithm of the unit at index i of units: 0 for b (a byte), 9 for s (a sector), 10 for
// k, and 10 more for each unit after k.
func unitShift(i int) uint {
	if i == 1 {
		return 9
	}
	return uint(max(i-1, 0)) * 10
}

// parseScaled parses digits with an optional fraction and multiplies them by unit, rounding up. It returns false for
// anything else, and for a result that does not fit in an int64.
func parseScaled(number string, unit uint64) (int64, bool) {
	whole, fraction, dotted := strings.Cut(number, ".")
	if !isDigits(whole) || dotted && !isDigits(fraction) || len(fraction) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil {
		return 0, false
	}
	high, low := bits.Mul64(n, unit)
	scaledFraction := uint64(0)
	if fraction != "" {
		scaledFraction = scaleFraction(fraction, unit)
	}
	sum, carry := bits.Add64(low, scaledFraction, 0)
	if high != 0 || carry != 0 || sum > math.MaxInt64 {
		return 0, false
	}
	return int64(sum), true
}

// scaleFraction multiplies 0.fraction by unit, rounding up. fraction is at most nine digits, and the quotient is below
// unit, so the division of the 128-bit product cannot overflow.
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

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// badSize returns the fault of a size that cannot be used.
func badSize(text, problem string) error {
	return fault.New(fault.BadArguments, "size %q: %s", text, problem).WithHint("%s", sizeHint)
}

// Base returns what the size is a share of: ORIGIN, FREE, VG or USED, or "" for a size in bytes.
func (s Size) Base() string { return s.base }

// Bytes returns the COW space in bytes, rounded up to whole extents. For shares of ORIGIN and USED it adds the metadata
// of the COW space, so that 100%ORIGIN can never overflow. For ORIGIN the result is the same number of extents that
// lvcreate computes. The result may be 0 (a share of no free space) or more than is available: the caller must compare
// it with the free space and with MaxCOW.
func (s Size) Bytes(space Space) int64 {
	switch s.base {
	case "":
		return roundUpToLimit(s.bytes, space.Extent)
	case "FREE":
		return roundUp(s.share(space.Free), space.Extent)
	case "VG":
		return roundUp(s.share(space.VG), space.Extent)
	case "USED":
		return roundUp(cowSpaceFor(s.share(space.OriginUsed), Chunk), space.Extent)
	}
	metadata := MaxCOW(space.Origin, Chunk, space.Extent) - space.Origin
	return metadata + roundUp(s.share(space.Origin), space.Extent)
}

// share returns the size's percentage of n, rounded up. It is at most 100 %, so neither the division nor the result can
// overflow.
func (s Size) share(n int64) int64 {
	const all = 100_000_000 // 100 % in millionths of a percent
	if n <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(n), uint64(s.millionths))
	quotient, remainder := bits.Div64(high, low, all)
	if remainder > 0 {
		quotient++
	}
	return int64(quotient)
}

// roundUpToLimit is roundUp for a number from a user, which may be close to the largest int64. If there is no multiple
// of unit up to that limit, it returns n as it is.
func roundUpToLimit(n, unit int64) int64 {
	if n > math.MaxInt64-unit {
		return n
	}
	return roundUp(n, unit)
}
