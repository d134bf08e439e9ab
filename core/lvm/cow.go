package lvm

// Chunk is the chunk size, in bytes, of the COW space that this package creates: 4 KiB, which is also LVM's default for
// small volumes. With larger chunks a restore that writes scattered blocks would use many times the COW space.
const Chunk = 4096

// exceptionBytes is the size of one entry in the metadata of a COW space: two 64-bit chunk numbers (linux,
// drivers/md/dm-snap-persistent.c).
const exceptionBytes = 16

// MaxCOW returns the largest COW space that a snapshot can use, rounded up to whole extents: room for every chunk of
// the origin, for the metadata that lists the chunks, and for a header. LVM reduces a larger size to it. The rule is
// that of lvm2's cow_max_extents for kernels since 3.14, which leak no chunk. All sizes are bytes. A chunk of 0 means
// Chunk, and an extent of 0 means no rounding.
func MaxCOW(origin, chunk, extent int64) int64 {
	if chunk <= 0 {
		chunk = Chunk
	}
	return roundUp(cowSpaceFor(origin, chunk), extent)
}

// cowSpaceFor returns the COW space, in bytes, that records changes of the given number of bytes. One chunk of metadata
// lists chunk/16 others. If the last metadata chunk is full, one more is needed to end the list.
func cowSpaceFor(changed, chunk int64) int64 {
	chunks := (changed + chunk - 1) / chunk
	entriesPerChunk := chunk / exceptionBytes
	return (1 + chunks + (chunks+entriesPerChunk)/entriesPerChunk) * chunk
}

// roundUp rounds n up to a multiple of unit.
func roundUp(n, unit int64) int64 {
	if unit <= 0 || n%unit == 0 {
		return n
	}
	return n + unit - n%unit
}
