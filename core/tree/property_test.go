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

// randomTrees makes random changes in trees.
type randomTrees struct {
	*testing.T
	*rand.Rand
}

func (g randomTrees) pick(list []string) string { return list[g.IntN(len(list))] }

// paths returns the paths of the entries of a tree for which want returns true, the root first.
func (g randomTrees) paths(top string, want func(fs.DirEntry) bool) []string {
	var all []string
	must(g, filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if want(entry) {
			all = append(all, path)
		}
		return err
	}))
	return all
}

func isDir(entry fs.DirEntry) bool  { return entry.IsDir() }
func isFile(entry fs.DirEntry) bool { return entry.Type().IsRegular() }

// randomPath returns a path in a tree, at which there may or may not be an entry.
func (g randomTrees) randomPath(top string) string {
	return filepath.Join(g.pick(g.paths(top, isDir)), g.pick([]string{"a", "b", "c", "dd", "e e", "f\n", "\xff", "z"}))
}

// addSomething makes a new entry of a random kind at a random path.
func (g randomTrees) addSomething(top string) {
	path := g.randomPath(top)
	if _, err := os.Lstat(path); err == nil {
		return
	}
	files := g.paths(top, isFile)
	switch g.IntN(10) {
	case 0, 1:
		must(g, os.Mkdir(path, 0o755))
	case 2:
		must(g, os.Symlink(g.pick([]string{"a", "/etc/passwd", "../.."}), path))
	case 3:
		must(g, unix.Mkfifo(path, 0o644))
	case 4, 5:
		if len(files) > 0 {
			must(g, os.Link(g.pick(files), path))
		}
	case 6:
		writeSparse(g, path, g.Int64N(1<<20), nil)
	default:
		write(g, path, randomBytes(g.IntN(9), g.IntN(40000)))
	}
}

// changeSomething changes, renames or removes a random entry.
func (g randomTrees) changeSomething(top string) {
	all := g.paths(top, func(fs.DirEntry) bool { return true })
	path := g.pick(all)
	st, err := os.Lstat(path)
	must(g, err)
	switch op := g.IntN(9); {
	case op == 0 && path != top:
		must(g, os.RemoveAll(path))
	case op == 1:
		must(g, os.Lchown(path, g.IntN(3), g.IntN(3)))
	case op == 2 && st.Mode().Type() != fs.ModeSymlink:
		must(g, os.Chmod(path, fs.FileMode(g.IntN(0o1000))|0o700))
	case op == 3:
		setMtime(g, path, g.Int64N(1e9), g.Int64N(1e9))
	case op == 4 && (st.IsDir() || st.Mode().IsRegular()):
		must(g, unix.Setxattr(path, "user."+g.pick([]string{"a", "b"}), []byte{byte(g.IntN(3))}, 0))
	case op == 5 && st.Mode().IsRegular():
		must(g, os.Truncate(path, g.Int64N(50000)))
	case op == 6 && path != top:
		// The kernel refuses to move a directory into itself, or over an entry of another kind.
		_ = os.Rename(path, g.randomPath(top))
	case st.Mode().IsRegular():
		g.overwrite(path, st.Size())
	}
}

func (g randomTrees) overwrite(path string, size int64) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(g, err)
	defer f.Close()
	_, err = f.WriteAt(randomBytes(g.IntN(1000), 1+g.IntN(9000)), g.Int64N(size+5000))
	must(g, err)
}

// fileState is a file's content and its inode, which all its hard links share.
type fileState struct {
	data  []byte
	inode uint64
}

func (g randomTrees) fileStates(top string) map[string]fileState {
	all := map[string]fileState{}
	for _, path := range g.paths(top, isFile) {
		data, err := os.ReadFile(path)
		must(g, err)
		rel, _ := filepath.Rel(top, path)
		all[rel] = fileState{data, inode(g.T, path)}
	}
	return all
}

// countDifferingBlocks counts the blocks in which want differs from have. Beyond their ends both count as zeros.
func countDifferingBlocks(want, have []byte) (n int64) {
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

// mostWrittenBlocks counts the blocks that may be written: for each file of `from`, the blocks that differ under that
// one of its names where most differ; and all blocks of a file of which one name in `to` is a hard link that must be
// split.
func mostWrittenBlocks(from, to map[string]fileState) (sum int64) {
	wanted := map[uint64][]uint64{} // for each file of `to`: the files of `from` that its hard links are to become
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
		most[f.inode] = max(most[f.inode], countDifferingBlocks(f.data, t.data))
	}
	for _, n := range most {
		sum += n
	}
	return sum
}

// Random trees are equal after Sync, and no block was written that did not differ.
func TestRandomTreesBecomeEqual(t *testing.T) {
	t.Parallel()
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := randomTrees{t, rand.New(rand.NewPCG(seed, 1))}
			from, to := emptyTrees(t)
			for range 30 {
				g.addSomething(from)
			}
			for range 10 {
				g.changeSomething(from)
			}
			for range 2 {
				g.syncAndChange(from, to)
			}
		})
	}
}

// syncAndChange makes the trees equal, checks what was written, and then changes both trees at random.
func (g randomTrees) syncAndChange(from, to string) {
	before, wanted := g.fileStates(to), g.fileStates(from)
	need, err := tree.Estimate(g.Context(), from, to, tree.Options{})
	must(g, err)
	asked := int64(0)
	done := syncAndVerify(g.T, from, to, tree.Options{Gate: func(n int64) error { asked += n; return nil }})
	if most := mostWrittenBlocks(wanted, before) * tree.Block; done.Written > most {
		g.Errorf("%d bytes written, and the blocks that differ are %d", done.Written, most)
	}
	if attributes := 2 * tree.Block * done.Metadata; asked > need.Most+attributes || done.Written > need.Most ||
		need.Least > need.Most {
		g.Errorf("%d bytes asked for, %d written, estimated at %+v", asked, done.Written, need)
	}
	if need.Files != done.Files || need.Bytes != done.Bytes {
		g.Errorf("estimated %+v, done %+v", need, done)
	}
	for range 15 {
		g.changeSomething(to)
		g.addSomething(to)
		g.changeSomething(from)
		g.addSomething(from)
	}
}
