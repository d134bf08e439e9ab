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

// A volume that is mounted within another one is stored as directories of that by some backends.
func TestRootsBelowAnotherAreLeftAlone(t *testing.T) {
	at := time.Now()
	w := &work{stored: backup.Stored{Time: at, Roots: []string{"/dat", "/dat/wal", "/data", "/pccehr"}}}
	for root, want := range map[string][]string{"/dat": {"wal"}, "/dat/wal": nil, "/data": nil} {
		o := w.options(root)
		if diff := cmp.Diff(want, o.Skip); diff != "" {
			t.Errorf("%s: %s", root, diff)
		}
		if o.Unchanged("file", &unix.Statx_t{Mode: unix.S_IFREG}) {
			t.Errorf("%s: without a record a file is taken as it is", root)
		}
	}
}

func TestErrorsNamePathsAsPeopleKnowThem(t *testing.T) {
	failed := fault.New(fault.NoSpace, "write /proc/self/fd/9/base/1: full").WithHint("more; see /proc/self/fd/9/base")
	f := fault.Of(readable(failed, "/proc/self/fd/9", "snapshot:/dat"))
	if strings.Contains(f.Msg, "/proc") || !strings.Contains(f.Msg, "snapshot:/dat/base/1") ||
		f.Code != fault.NoSpace || f.Hint != "more; see snapshot:/dat/base" {
		t.Errorf("%+v", f)
	}
}
