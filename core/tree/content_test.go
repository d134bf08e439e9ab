package tree_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

// changed returns a copy of data to which change was applied.
func changed(data []byte, change func([]byte)) []byte {
	data = bytes.Clone(data)
	change(data)
	return data
}

func TestOnlyBlocksThatDifferAreWritten(t *testing.T) {
	t.Parallel()
	base := randomBytes(1, 3<<20+100)
	zeros := make([]byte, 3<<20)
	tests := []struct {
		name     string
		old, new []byte
		written  int64
	}{
		{"nothing", base, base, 0},
		{"a byte", base, changed(base, func(b []byte) { b[70000]++ }), 4096},
		{"the last byte of a block and the first of the next", base,
			changed(base, func(b []byte) { b[8191]++; b[8192]++ }), 8192},
		{"two blocks apart, over the end of a chunk", base,
			changed(base, func(b []byte) { b[512<<10-1]++; b[512<<10+4096]++ }), 8192},
		{"the short last block", base, changed(base, func(b []byte) { b[len(b)-1]++ }), 100},
		{"longer by some bytes", base[:10000], base[:10001], 10001 - 8192},
		{"longer by a block", base[:8192], base[:8193], 1},
		{"longer by zeros", base[:10000], append(bytes.Clone(base[:10000]), zeros...), 0},
		{"longer by zeros and a byte", base[:10000], append(append(bytes.Clone(base[:10000]), zeros...), 1),
			10001 + 3<<20 - (10001+3<<20-1)/4096*4096},
		{"shorter", base, base[:10001], 0},
		{"shorter by a megabyte and other", base, changed(base[:1<<20], func(b []byte) { b[0]++ }), 4096},
		{"emptied", base, nil, 0},
		{"filled", nil, base[:5000], 5000},
		{"zeros where there was data", base[:20000], changed(base[:20000], func(b []byte) { clear(b[4096:12288]) }), 8192},
		{"data where there were zeros", zeros[:20000], changed(zeros[:20000], func(b []byte) { b[5000] = 1 }), 4096},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from, to := equalTrees(t, map[string][]byte{"f": tt.old})
			must(t, os.WriteFile(from+"/f", tt.new, 0o644))
			setMtime(t, from+"/f", 7, 0)
			done := syncAndVerify(t, from, to, tree.Options{})
			changed := int64(1)
			if bytes.Equal(tt.old, tt.new) {
				changed = 0
			}
			if done.Written != tt.written || done.Changed != changed || done.Created+done.Deleted != 0 {
				t.Errorf("%d bytes expected: %+v", tt.written, done)
			}
		})
	}
}

func TestHolesAreKept(t *testing.T) {
	const size = 2<<20 + 777
	data := randomBytes(1, size)
	tests := []struct {
		name      string
		from, to  map[int64][]byte // nil: no file
		written   int64
		allocated int64 // at most
	}{
		{"a hole over data", map[int64][]byte{0: data[:4096]}, map[int64][]byte{0: data}, 0, 8192},
		{"data over a hole", map[int64][]byte{8192: data[:4096]}, map[int64][]byte{}, 4096, 4096},
		{"a hole to the end of a new file", map[int64][]byte{4096: data[:10]}, nil, 4096, 4096},
		{"nothing but a hole", map[int64][]byte{}, nil, 0, 0},
		{"zeros as data become a hole of a new file", map[int64][]byte{0: make([]byte, 1<<20), 1 << 20: data[:4096]},
			nil, 4096, 4096},
		{"a hole over zeros", map[int64][]byte{}, map[int64][]byte{0: make([]byte, 8192)}, 0, 8192},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from, to := emptyTrees(t)
			writeSparse(t, from+"/f", size, tt.from)
			if tt.to != nil {
				writeSparse(t, to+"/f", size, tt.to)
				setMtime(t, to+"/f", 7, 0)
			}
			done := syncAndVerify(t, from, to, tree.Options{})
			if done.Written != tt.written {
				t.Errorf("%d bytes expected: %+v", tt.written, done)
			}
			if got := allocated(t, to+"/f"); got > tt.allocated {
				t.Errorf("%d bytes allocated, at most %d expected", got, tt.allocated)
			}
		})
	}
}

// Buffers are reused for all files. What is in them from one file must not be taken for data of the next.
func TestBufferOfOneFileIsNotTakenForTheNext(t *testing.T) {
	data := randomBytes(1, 100<<10)
	from, to := equalTrees(t, map[string][]byte{"a": data, "b": data})
	must(t, os.Truncate(to+"/b", 100))
	if done := syncAndVerify(t, from, to, tree.Options{}); done.Written != int64(len(data)) {
		t.Errorf("%+v", done)
	}
}

func TestHugeHoleIsNotRead(t *testing.T) {
	from, to := emptyTrees(t)
	writeSparse(t, from+"/f", 1<<40, map[int64][]byte{1<<40 - 4096: randomBytes(1, 4096)})
	done, err := tree.Sync(t.Context(), from, to, tree.Options{})
	must(t, err)
	again, err := tree.Sync(t.Context(), from, to, tree.Options{})
	must(t, err)
	if done.Compared != 4096 || done.Written != 4096 || !again.Same() {
		t.Errorf("%+v, then %+v", done, again)
	}
}

// A change of content that left size and mtime as they were is found, unless Unchanged reports true for the file.
func TestUnchangedFilesAreNotRead(t *testing.T) {
	from, to := equalTrees(t, map[string][]byte{"f": randomBytes(1, 9000), "g": randomBytes(2, 9000)})
	overwriteKeepingMtime(t, to+"/f", 5000)
	asked := 0
	done, err := tree.Sync(t.Context(), from, to, tree.Options{Unchanged: func(rel string, st *unix.Statx_t) bool {
		if rel == "f" && st.Ino == inode(t, to+"/f") && st.Size == 9000 {
			asked++
		}
		return true
	}})
	must(t, err)
	if !done.Same() || done.Compared != 0 || asked == 0 {
		t.Errorf("Unchanged reports true for all: %+v", done)
	}
	notF := func(rel string, _ *unix.Statx_t) bool { return rel != "f" }
	done, err = tree.Sync(t.Context(), from, to, tree.Options{Unchanged: notF})
	must(t, err)
	if done.Written != 4096 || done.Compared != 9000 {
		t.Errorf("Unchanged reports false for one file: %+v", done)
	}
	assertEqual(t, from, to)
	overwriteKeepingMtime(t, to+"/g", 5000)
	if done := syncAndVerify(t, from, to, tree.Options{}); done.Written != 4096 || done.Compared != 18000 {
		t.Errorf("without Unchanged: %+v", done)
	}
}

// A file whose size or mtime differs is compared, whatever Unchanged reports.
func TestUnchangedIsIgnoredIfSizeOrTimeDiffers(t *testing.T) {
	from, to := equalTrees(t, map[string][]byte{"longer": randomBytes(1, 9000), "later": randomBytes(2, 9000),
		"mode": randomBytes(3, 9000)})
	must(t, os.WriteFile(to+"/longer", randomBytes(1, 9001), 0o644),
		os.WriteFile(to+"/later", randomBytes(4, 9000), 0o644))
	must(t, os.Chmod(to+"/mode", 0o600))
	all := func(string, *unix.Statx_t) bool { return true }
	done, err := tree.Sync(t.Context(), from, to, tree.Options{Unchanged: all})
	must(t, err)
	if done.Changed != 2 || done.Metadata != 1 || done.Compared != 18000 {
		t.Errorf("%+v", done)
	}
	assertEqual(t, from, to)
}

// overwriteKeepingMtime overwrites some bytes of a file at an offset, and keeps the file's size and mtime.
func overwriteKeepingMtime(t *testing.T, path string, at int64) {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("forged"), at)
	must(t, err, f.Close())
	setMtime(t, path, st.ModTime().Unix(), int64(st.ModTime().Nanosecond()))
}

func TestGateErrorStopsBeforeTheWrite(t *testing.T) {
	from, to := emptyTrees(t)
	fillWithEveryKind(t, from)
	need, err := tree.Estimate(t.Context(), from, to, tree.Options{})
	must(t, err)
	no := fault.New(fault.NoSpace, "vg00 is full")
	// Let Gate refuse the first call, then the second one, and so on. Each time the work must stop before that write.
	for allowed := 0; ; allowed++ {
		asked, sum := 0, int64(0)
		_, err := tree.Sync(t.Context(), from, to, tree.Options{Gate: func(n int64) error {
			if asked++; asked > allowed {
				return no
			}
			sum += n
			return nil
		}})
		if err == nil {
			if allowed < 20 || sum > need.Most {
				t.Errorf("%d times asked, for %d bytes, estimated at %d", asked, sum, need.Most)
			}
			break
		}
		if !errors.Is(err, error(no)) || fault.Of(err).Code != fault.NoSpace || asked != allowed+1 {
			t.Fatalf("asked %d times: %v", asked, err)
		}
		must(t, os.RemoveAll(to), os.Mkdir(to, 0o755))
	}
	assertEqual(t, from, to)
}

// Gate is called before anything is deleted or shortened, too, since that writes metadata.
func TestGateIsAskedBeforeDeletionAndShortening(t *testing.T) {
	for name, change := range map[string]func(from string) error{
		"deleted":   func(from string) error { return os.RemoveAll(from + "/dir") },
		"shortened": func(from string) error { return os.Truncate(from+"/dir/log", 0) },
	} {
		t.Run(name, func(t *testing.T) {
			from, to := equalTrees(t, map[string][]byte{"dir/log": randomBytes(1, 2<<20)})
			must(t, change(from))
			before := describe(t, to)
			_, err := tree.Sync(t.Context(), from, to, tree.Options{Gate: func(int64) error { return errors.New("no") }})
			if err == nil || !maps.Equal(before, describe(t, to)) {
				t.Errorf("%v, and it was changed", err)
			}
		})
	}
}

// A Sync that was stopped at any write is completed by the next Sync.
func TestNextSyncCompletesAStoppedOne(t *testing.T) {
	t.Parallel()
	from, other := emptyTrees(t)
	fillWithEveryKind(t, from)
	write(t, other+"/three/not", randomBytes(4, 9000))
	write(t, other+"/b/one", randomBytes(4, 9000))
	write(t, other+"/a/program", randomBytes(4, 20000))
	must(t, os.Link(other+"/b/one", other+"/b/extra"), os.Symlink("else", other+"/out"))
	for allowed := 0; ; allowed++ {
		to := filepath.Join(t.TempDir(), "to")
		must(t, os.Mkdir(to, 0o755))
		_, err := tree.Sync(t.Context(), other, to, tree.Options{})
		must(t, err)
		asked := 0
		_, stopped := tree.Sync(t.Context(), from, to, tree.Options{Gate: func(int64) error {
			if asked++; asked > allowed {
				return errors.New("stop")
			}
			return nil
		}})
		_, err = tree.Sync(t.Context(), from, to, tree.Options{})
		must(t, err)
		if !maps.Equal(describe(t, to), describe(t, from)) {
			t.Fatalf("stopped after %d writes and not completed", allowed)
		}
		if stopped == nil {
			break
		}
	}
}

// Everything that is to be deleted or shortened, in whatever directory, is so before the first write, which may need
// the room.
func TestDeletesBeforeItWrites(t *testing.T) {
	from, to := emptyTrees(t)
	write(t, from+"/a/new", randomBytes(1, 5000))
	write(t, from+"/z/log", randomBytes(2, 100))
	write(t, to+"/z/extra", randomBytes(3, 5000))
	write(t, to+"/z/log", randomBytes(2, 2<<20))
	write(t, to+"/a/new/was/a/directory", nil)
	written := false
	_, err := tree.Sync(t.Context(), from, to, tree.Options{Gate: func(n int64) error {
		if n != 5000 {
			return nil
		}
		written = true
		if _, err := os.Lstat(to + "/z/extra"); !os.IsNotExist(err) {
			t.Errorf("what is to be deleted is still there: %v", err)
		}
		if st, err := os.Stat(to + "/z/log"); err != nil || st.Size() != 100 {
			t.Errorf("what is to be shortened is not: %v, %v", st, err)
		}
		return nil
	}})
	must(t, err)
	if !written {
		t.Error("the gate was not asked for the new file's data")
	}
	assertEqual(t, from, to)
}
