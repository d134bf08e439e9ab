package tree_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/tree"
)

// garden makes random trees and random changes.
type garden struct {
	*testing.T
	*rand.Rand
}

func (g garden) any(list []string) string { return list[g.IntN(len(list))] }

// paths returns what is in a tree, the top first.
func (g garden) paths(top string, want func(fs.DirEntry) bool) []string {
	var all []string
	do(g, filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if want(entry) {
			all = append(all, path)
		}
		return err
	}))
	return all
}

func isDir(entry fs.DirEntry) bool  { return entry.IsDir() }
func isFile(entry fs.DirEntry) bool { return entry.Type().IsRegular() }

// place returns a path in a tree where there may be something or not.
func (g garden) place(top string) string {
	return filepath.Join(g.any(g.paths(top, isDir)), g.any([]string{"a", "b", "c", "dd", "e e", "f\n", "\xff", "z"}))
}

// grow puts something new somewhere.
func (g garden) grow(top string) {
	path := g.place(top)
	if _, err := os.Lstat(path); err == nil {
		return
	}
	files := g.paths(top, isFile)
	switch g.IntN(10) {
	case 0, 1:
		do(g, os.Mkdir(path, 0o755))
	case 2:
		do(g, os.Symlink(g.any([]string{"a", "/etc/passwd", "../.."}), path))
	case 3:
		do(g, unix.Mkfifo(path, 0o644))
	case 4, 5:
		if len(files) > 0 {
			do(g, os.Link(g.any(files), path))
		}
	case 6:
		sparse(g, path, g.Int64N(1<<20), nil)
	default:
		write(g, path, random(g.IntN(9), g.IntN(40000)))
	}
}

// disturb changes something that is there.
func (g garden) disturb(top string) {
	all := g.paths(top, func(fs.DirEntry) bool { return true })
	path := g.any(all)
	st, err := os.Lstat(path)
	do(g, err)
	switch op := g.IntN(9); {
	case op == 0 && path != top:
		do(g, os.RemoveAll(path))
	case op == 1:
		do(g, os.Lchown(path, g.IntN(3), g.IntN(3)))
	case op == 2 && st.Mode().Type() != fs.ModeSymlink:
		do(g, os.Chmod(path, fs.FileMode(g.IntN(0o1000))|0o700))
	case op == 3:
		date(g, path, g.Int64N(1e9), g.Int64N(1e9))
	case op == 4 && (st.IsDir() || st.Mode().IsRegular()):
		do(g, unix.Setxattr(path, "user."+g.any([]string{"a", "b"}), []byte{byte(g.IntN(3))}, 0))
	case op == 5 && st.Mode().IsRegular():
		do(g, os.Truncate(path, g.Int64N(50000)))
	case op == 6 && path != top:
		// Into a directory of its own, or over something else: the kernel may say no.
		_ = os.Rename(path, g.place(top))
	case st.Mode().IsRegular():
		g.scribble(path, st.Size())
	}
}

func (g garden) scribble(path string, size int64) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	do(g, err)
	defer f.Close()
	_, err = f.WriteAt(random(g.IntN(1000), 1+g.IntN(9000)), g.Int64N(size+5000))
	do(g, err)
}

// known is a file's content and which names share it.
type known struct {
	data  []byte
	inode uint64
}

func (g garden) know(top string) map[string]known {
	all := map[string]known{}
	for _, path := range g.paths(top, isFile) {
		data, err := os.ReadFile(path)
		do(g, err)
		rel, _ := filepath.Rel(top, path)
		all[rel] = known{data, inode(g.T, path)}
	}
	return all
}

// blocks counts the blocks of want that have is not, beyond whose end there are zeros.
func blocks(want, have []byte) (n int64) {
	for at := 0; at < len(want); at += tree.Block {
		a, b := make([]byte, tree.Block), make([]byte, tree.Block)
		copy(a, want[at:])
		copy(b, have[min(at, len(have)):])
		if !bytes.Equal(a, b) {
			n++
		}
	}
	return n
}

// differing counts the blocks that may be written: of each file of `from`, whatever its names are, the most that any of
// them differs by in `to`, and all of it where a name must be parted from another there.
func differing(from, to map[string]known) (sum int64) {
	wanted := map[uint64][]uint64{} // of a file of `to`: those of `from` that its names are to become
	for name, f := range from {
		if t, ok := to[name]; ok && !slices.Contains(wanted[t.inode], f.inode) {
			wanted[t.inode] = append(wanted[t.inode], f.inode)
		}
	}
	most := map[uint64]int64{}
	for name, f := range from {
		t := to[name]
		if len(wanted[t.inode]) > 1 {
			t.data = nil
		}
		most[f.inode] = max(most[f.inode], blocks(f.data, t.data))
	}
	for _, n := range most {
		sum += n
	}
	return sum
}

// Whatever the trees are, they are equal afterwards, and no block was written that was the same.
func TestAnyTrees(t *testing.T) {
	t.Parallel()
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := garden{t, rand.New(rand.NewPCG(seed, 1))}
			from, to := trees(t)
			for range 30 {
				g.grow(from)
			}
			for range 10 {
				g.disturb(from)
			}
			for range 2 {
				g.round(from, to)
			}
		})
	}
}

// round makes the trees equal, and then different again on both sides.
func (g garden) round(from, to string) {
	before, wanted := g.know(to), g.know(from)
	need, err := tree.Estimate(g.Context(), from, to, tree.Options{})
	do(g, err)
	asked := int64(0)
	done := sync(g.T, from, to, tree.Options{Gate: func(n int64) error { asked += n; return nil }})
	if most := differing(wanted, before) * tree.Block; done.Written > most {
		g.Errorf("%d bytes written, and the blocks that differ are %d", done.Written, most)
	}
	if attributes := 2 * tree.Block * done.Metadata; asked > need.Most+attributes || done.Written > need.Most || need.Least > need.Most {
		g.Errorf("%d bytes asked for, %d written, estimated at %+v", asked, done.Written, need)
	}
	if need.Files != done.Files || need.Bytes != done.Bytes {
		g.Errorf("estimated %+v, done %+v", need, done)
	}
	for range 15 {
		g.disturb(to)
		g.grow(to)
		g.disturb(from)
		g.grow(from)
	}
}
