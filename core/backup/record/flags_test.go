package record

import (
	"bufio"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/tree"
)

// noDump is chattr's d (include/uapi/linux/fs.h, FS_NODUMP_FL): a flag that is not in the way of a test.
const noDump = 0x40

func giveFlag(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	ok(t, err)
	defer file.Close()
	ok(t, unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, noDump))
}

// A record has the inode flags of files and directories, also that there are none; one of an earlier version does not
// know them.
func TestFlagsAreRecorded(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	ok(t, os.MkdirAll(root+"/dir/below", 0o755), os.WriteFile(root+"/plain", nil, 0o644))
	_, _, r := recorded(t, root, nil, nil)
	if flags := r.Flags(); flags == nil || len(flags) != 0 {
		t.Errorf("of a tree without flags: %v", flags)
	}
	want := map[string]tree.Flags{}
	for _, name := range []string{"", "/dir", "/dir/file", "/dir/below/new\nline"} {
		path := filepath.Join(root, name)
		if filepath.Base(name) == "file" || filepath.Base(name) == "new\nline" {
			ok(t, os.WriteFile(path, nil, 0o644))
		}
		giveFlag(t, path)
		want[path] = tree.NoDump
	}
	settled()
	k, s, r := recorded(t, root, nil, nil)
	if diff := cmp.Diff(want, r.Flags()); diff != "" {
		t.Errorf("flags (-were +recorded):\n%s", diff)
	}
	if path := root + "/dir/file"; !r.Same(path, stat(t, path)) {
		t.Error("a file that has flags is what it was")
	}
	ok(t, k.Remove(s.ID))
	if r := k.Open(s); r.Flags() != nil {
		t.Error("without a record flags are known")
	}
}

// A list that would take too much memory is left out, and is not taken for that of a tree without flags.
func TestTooManyFlagsAreNotKnown(t *testing.T) {
	t.Parallel()
	var l flagList
	path := "/" + string(make([]byte, 4000))
	for i := 0; i <= longest/4000; i++ {
		l.add(path, &unix.Statx_t{Attributes: unix.STATX_ATTR_APPEND})
	}
	if !l.tooLong || len(l.lines) != 0 {
		t.Fatalf("%d bytes are kept", len(l.lines))
	}
	of := backup.Tree{Time: time.Now(), Record: filepath.Join(t.TempDir(), "new")}
	file, err := os.Create(of.Record)
	ok(t, err)
	defer file.Close()
	w := walk{out: bufio.NewWriter(file), flags: l}
	ok(t, w.finish())
	r, err := read(file, 0)
	ok(t, err)
	if flags := r.Flags(); flags != nil {
		t.Errorf("flags %v", flags)
	}
}
