package tree

import (
	"bytes"
	"slices"
)

// names are the names in one directory. They lie in a few large slices without pointers, so that a million of them cost
// little more than their letters and the garbage collector nothing.
type names struct {
	chunks [][]byte // of chunkSize; each name ends with NUL, which no name can hold
	at     []uint32 // number of the chunk << chunkBits | offset in it
}

const (
	chunkBits = 16
	chunkSize = 1 << chunkBits
)

// add takes a name, which is at most 255 bytes long (NAME_MAX).
func (n *names) add(name string) {
	last := len(n.chunks) - 1
	if last < 0 || len(n.chunks[last])+len(name)+1 > chunkSize {
		n.chunks = append(n.chunks, make([]byte, 0, n.nextSize()))
		last++
	}
	n.at = append(n.at, uint32(last<<chunkBits|len(n.chunks[last])))
	n.chunks[last] = append(append(n.chunks[last], name...), 0)
}

// nextSize keeps the many small directories small.
func (n *names) nextSize() int {
	if len(n.chunks) == 0 {
		return 512
	}
	return chunkSize
}

func (n *names) bytes(at uint32) []byte {
	text := n.chunks[at>>chunkBits][at&(chunkSize-1):]
	return text[:bytes.IndexByte(text, 0)]
}

func (n *names) len() int { return len(n.at) }

func (n *names) get(i int) string { return string(n.bytes(n.at[i])) }

func (n *names) sort() {
	slices.SortFunc(n.at, func(a, b uint32) int { return bytes.Compare(n.bytes(a), n.bytes(b)) })
}

// has reports whether name is one of them. They must be sorted.
func (n *names) has(name string) bool {
	key := []byte(name)
	_, found := slices.BinarySearchFunc(n.at, key, func(at uint32, key []byte) int { return bytes.Compare(n.bytes(at), key) })
	return found
}
