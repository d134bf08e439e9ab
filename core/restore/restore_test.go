package restore

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// Some backends store a volume that is mounted within another one as directories of that other one.
func TestCompareOptionsSkipRootsBelow(t *testing.T) {
	at := time.Now()
	r := &restoreRun{backup: backup.Stored{Time: at, Roots: []string{"/dat", "/dat/wal", "/data", "/pccehr"}}}
	for root, want := range map[string][]string{"/dat": {"wal"}, "/dat/wal": nil, "/data": nil} {
		o := r.compareOptions(root)
		if diff := cmp.Diff(want, o.Skip); diff != "" {
			t.Errorf("%s: %s", root, diff)
		}
		if o.Unchanged("file", &unix.Statx_t{Mode: unix.S_IFREG}) {
			t.Errorf("%s: without a record a file counts as unchanged", root)
		}
	}
}

func TestReplacePathsInMessageAndHint(t *testing.T) {
	failed := fault.New(fault.NoSpace, "write /proc/self/fd/9/base/1: full").WithHint("more; see /proc/self/fd/9/base")
	f := fault.Of(replacePaths(failed, "/proc/self/fd/9", "snapshot:/dat"))
	if strings.Contains(f.Msg, "/proc") || !strings.Contains(f.Msg, "snapshot:/dat/base/1") ||
		f.Code != fault.NoSpace || f.Hint != "more; see snapshot:/dat/base" {
		t.Errorf("%+v", f)
	}
}
