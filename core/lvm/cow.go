package lvm

// Chunk is the chunk size of the COW space this package creates: 4 KiB. LVM's
// default is the same for small volumes; larger chunks cost a restore that
// writes scattered blocks many times the space.
const Chunk = 4096

// exceptionBytes is the size of one entry of a COW's metadata: two 64-bit chunk
// numbers (linux, drivers/md/dm-snap-persistent.c).
const exceptionBytes = 16

// MaxCOW returns the largest COW space, in bytes, that a snapshot of an origin
// can use, rounded up to whole extents: room for every chunk, the metadata that
// lists them, and a header. LVM reduces what is larger to it. The rule is that
// of lvm2's cow_max_extents for kernels since 3.14, which leak no chunk.
// A chunk of 0 is Chunk; an extent of 0 rounds nothing.
func MaxCOW(origin, chunk, extent int64) int64 {
	if chunk <= 0 {
		chunk = Chunk
	}
	return roundUp(cowFor(origin, chunk), extent)
}

// cowFor returns the COW space that records n bytes of changes. One metadata
// chunk lists chunk/16 others; where they are full to the last entry one more
// ends the list.
func cowFor(n, chunk int64) int64 {
	changed := (n + chunk - 1) / chunk
	perArea := chunk / exceptionBytes
	return (1 + changed + (changed+perArea)/perArea) * chunk
}

// roundUp rounds n up to a multiple of unit.
func roundUp(n, unit int64) int64 {
	if unit <= 0 || n%unit == 0 {
		return n
	}
	return n + unit - n%unit
}
