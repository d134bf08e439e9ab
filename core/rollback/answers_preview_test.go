package rollback

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/filesystem"
)

// A new or deleted directory with all its files is one line. A path that only begins like the directory, or files that
// changed, are named.
func TestFileDiffCountsFilesBelowDirectory(t *testing.T) {
	got := fileDiff(&State{Set: "snap"}, map[string]filesystem.Changes{
		"/pccehr": {New: 2, Deleted: 5, Changed: 2, Paths: []filesystem.Change{
			{Path: "log", What: "changed"}, {Path: "log/today", What: "changed"}, {Path: "new", What: "new"},
			{Path: "records", What: "deleted"}, {Path: "records/ward", What: "deleted"},
			{Path: "records/ward/1", What: "deleted"}, {Path: "records2", What: "deleted"},
			{Path: "two\nlines", What: "deleted"},
		}},
		"/dat": {New: 3, Paths: []filesystem.Change{{Path: "tmp", What: "new"}, {Path: "tmp/a", What: "new"}}},
	})
	before := "/dat/tmp/ (with 1 below it)\n/dat: 1 more\n" +
		"/pccehr/log (changed since)\n/pccehr/log/today (changed since)\n/pccehr/new\n/pccehr: 1 more\n"
	after := "/pccehr/log\n/pccehr/log/today\n/pccehr/records/ (with 2 below it)\n" +
		"/pccehr/records2\n\"/pccehr/two\\nlines\"\n"
	if d := cmp.Diff([]string{before, after}, []string{got.Before, got.After}); d != "" {
		t.Error(d)
	}
}
