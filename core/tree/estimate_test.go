package tree_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/tree"
)

func TestEstimateBoundsWhatSyncWrites(t *testing.T) {
	t.Parallel()
	const kib = 1 << 10
	tests := []struct {
		name        string
		change      func(t *testing.T, from, to string)
		least, most int64 // bytes of data
		blocks      int64 // changes of metadata, at most
	}{
		{"nothing", func(*testing.T, string, string) {}, 0, 0, 0},
		{"a new file", func(t *testing.T, from, _ string) {
			write(t, from+"/new", randomBytes(1, 5000))
			setMtime(t, from, 1, 0)
		}, 8 * kib, 8 * kib, 4},
		{"a new sparse file", func(t *testing.T, from, _ string) {
			writeSparse(t, from+"/new", 4<<20, map[int64][]byte{1 << 20: randomBytes(1, 5000)})
			setMtime(t, from, 1, 0)
		}, 8 * kib, 8 * kib, 4},
		{"longer", func(t *testing.T, from, _ string) {
			must(t, os.WriteFile(from+"/f", randomBytes(2, 30000), 0o644))
			setMtime(t, from+"/f", 1, 0)
		}, 20 * kib, 32 * kib, 2},
		{"another time", func(t *testing.T, from, _ string) { setMtime(t, from+"/f", 1, 0) }, 0, 12 * kib, 2},
		{"another mode", func(t *testing.T, from, _ string) { must(t, os.Chmod(from+"/f", 0o600)) }, 0, 0, 2},
		{"another name", func(t *testing.T, from, _ string) {
			must(t, os.Link(from+"/f", from+"/g"))
			setMtime(t, from, 1, 0)
		}, 0, 0, 5},
		{"written since", func(t *testing.T, _, to string) {
			st, err := os.Stat(to + "/f")
			must(t, err)
			must(t, os.WriteFile(to+"/f", randomBytes(9, 9000), 0o644))
			setMtime(t, to+"/f", st.ModTime().Unix(), int64(st.ModTime().Nanosecond()))
		}, 0, 12 * kib, 2},
		{"to be deleted", func(t *testing.T, _, to string) {
			write(t, to+"/x/y/z", randomBytes(1, 5000))
			must(t, unix.Mkfifo(to+"/x/fifo", 0o600))
		}, 0, 0, 4 + 2 + 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from, to := equalTrees(t, map[string][]byte{"f": randomBytes(1, 9000)})
			unchanged := unchangedSince(t, to)
			tt.change(t, from, to)
			before := [2]map[string]string{describe(t, from), describe(t, to)}
			need, err := tree.Estimate(t.Context(), from, to, tree.Options{Unchanged: unchanged})
			must(t, err)
			if most := tt.most + tt.blocks*tree.Block; need.Least != tt.least || need.Most > most || need.Most < tt.most {
				t.Errorf("at least %d, at most %d expected: %+v", tt.least, most, need)
			}
			if diff := cmp.Diff(before, [2]map[string]string{describe(t, from), describe(t, to)}); diff != "" {
				t.Error("it changed something:\n" + diff)
			}
			done, err := tree.Sync(t.Context(), from, to, tree.Options{Unchanged: unchanged})
			must(t, err)
			assertEqual(t, from, to)
			if done.Written > need.Most || done.Written+tree.Block*2 < need.Least {
				t.Errorf("%+v, estimated at %+v", done, need)
			}
		})
	}
}

// unchangedSince returns a function for Options.Unchanged: it reports whether an entry has the inode number and the
// ctime that it has now.
func unchangedSince(t *testing.T, top string) func(string, *unix.Statx_t) bool {
	t.Helper()
	type state struct {
		ino   uint64
		ctime unix.StatxTimestamp
	}
	known := map[string]state{}
	must(t, filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		must(t, err)
		var st unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st))
		rel, err := filepath.Rel(top, path)
		known[rel] = state{st.Ino, st.Ctime}
		waitForNewCtime(t, path) // whatever is changed from now on gets another ctime
		return err
	}))
	return func(rel string, st *unix.Statx_t) bool {
		before, ok := known[filepath.Clean(rel)]
		return ok && before == state{st.Ino, st.Ctime}
	}
}
