package tree

import (
	"bytes"
	"slices"
)

// names are the names in one directory. They are stored in a few large slices without pointers, so that a million names
// take little more memory than their letters, and cost the garbage collector nothing.
type names struct {
	chunks    [][]byte // of up to chunkSize bytes; each name ends with NUL, which no name can contain
	positions []uint32 // the position of each name: number of the chunk << chunkBits | offset in the chunk
}

const (
	chunkBits = 16
	chunkSize = 1 << chunkBits
)

// add adds a name, which is at most 255 bytes long (NAME_MAX).
func (n *names) add(name string) {
	last := len(n.chunks) - 1
	if last < 0 || len(n.chunks[last])+len(name)+1 > chunkSize {
		n.chunks = append(n.chunks, make([]byte, 0, n.nextChunkSize()))
		last++
	}
	n.positions = append(n.positions, uint32(last<<chunkBits|len(n.chunks[last])))
	n.chunks[last] = append(append(n.chunks[last], name...), 0)
}

// nextChunkSize returns the capacity of the next chunk. The first chunk is small, because most directories are.
func (n *names) nextChunkSize() int {
	if len(n.chunks) == 0 {
		return 512
	}
	return chunkSize
}

// bytes returns the name at a position.
func (n *names) bytes(position uint32) []byte {
	text := n.chunks[position>>chunkBits][position&(chunkSize-1):]
	return text[:bytes.IndexByte(text, 0)]
}

func (n *names) len() int { return len(n.positions) }

func (n *names) get(i int) string { return string(n.bytes(n.positions[i])) }

func (n *names) sort() {
	slices.SortFunc(n.positions, func(a, b uint32) int { return bytes.Compare(n.bytes(a), n.bytes(b)) })
}

// has reports whether name is one of the names, which must be sorted.
func (n *names) has(name string) bool {
	key := []byte(name)
	_, found := slices.BinarySearchFunc(n.positions, key, func(position uint32, key []byte) int {
		return bytes.Compare(n.bytes(position), key)
	})
	return found
}
