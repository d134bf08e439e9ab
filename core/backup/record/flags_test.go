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

// noDump is the flag d of chattr(1) (include/uapi/linux/fs.h, FS_NODUMP_FL). Unlike i and a it does not stop a test
// from changing or removing the file.
const noDump = 0x40

func setNoDump(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	must(t, unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, noDump))
}

// A record of a tree without flags has an empty list. Where there is no record, the flags are unknown.
func TestRecordHoldsInodeFlags(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/dir/below", 0o755), os.WriteFile(root+"/plain", nil, 0o644))
	_, _, r := recordTree(t, root, nil, nil)
	if flags := r.Flags(); flags == nil || len(flags) != 0 {
		t.Errorf("flags of a tree without flags: %v", flags)
	}
	want := map[string]tree.Flags{}
	for _, name := range []string{"", "/dir", "/dir/file", "/dir/below/new\nline"} {
		path := filepath.Join(root, name)
		if filepath.Base(name) == "file" || filepath.Base(name) == "new\nline" {
			must(t, os.WriteFile(path, nil, 0o644))
		}
		setNoDump(t, path)
		want[path] = tree.NoDump
	}
	waitUntilSettled()
	k, s, r := recordTree(t, root, nil, nil)
	if diff := cmp.Diff(want, r.Flags()); diff != "" {
		t.Errorf("flags (-were +recorded):\n%s", diff)
	}
	if path := root + "/dir/file"; !r.Same(path, stat(t, path)) {
		t.Error("an unchanged file that has flags is not the same")
	}
	must(t, k.Remove(s.ID))
	if r := k.Open(s); r.Flags() != nil {
		t.Error("without a record flags are known")
	}
}

// A list that would take too much memory is left out. The flags are then unknown, which is not the same as none.
func TestTooLongFlagListIsUnknown(t *testing.T) {
	t.Parallel()
	var l flagList
	path := "/" + string(make([]byte, 4000))
	for i := 0; i <= maxFlagBytes/4000; i++ {
		l.add(path, &unix.Statx_t{Attributes: unix.STATX_ATTR_APPEND})
	}
	if !l.tooLong || len(l.lines) != 0 {
		t.Fatalf("%d bytes are kept", len(l.lines))
	}
	tr := backup.Tree{Time: time.Now(), Record: filepath.Join(t.TempDir(), "new")}
	file, err := os.Create(tr.Record)
	must(t, err)
	defer file.Close()
	s := scan{out: bufio.NewWriter(file), flags: l}
	must(t, s.finish())
	r, err := readIndex(file, 0)
	must(t, err)
	if flags := r.Flags(); flags != nil {
		t.Errorf("flags %v", flags)
	}
}
