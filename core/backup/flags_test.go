package backup_test

import (
	"maps"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/tree"
)

func TestFlagLinesRoundTrip(t *testing.T) {
	want := map[string]tree.Flags{
		"/dat": tree.Immutable, "/dat/new\nline \"quoted\"": tree.AppendOnly | tree.NoDump,
		"/dat/not utf-8 \xff":                  tree.NoDump,
		"/dat/" + strings.Repeat("\xff", 4000): tree.Immutable,
	}
	var list strings.Builder
	for path, f := range want {
		list.WriteString(backup.FlagLine(path, f))
	}
	if got, err := backup.ReadFlags(strings.NewReader(list.String())); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v became %v, %v", want, got, err)
	}
	for _, wrong := range []string{"x \"/dat\"\n", "i /dat\n", "i\n", "i \"/dat\n"} {
		if got, err := backup.ReadFlags(strings.NewReader(wrong)); err == nil {
			t.Errorf("%q was read as %v", wrong, got)
		}
	}
}

// A path has no limit: only one that is given to a system call has.
func TestFlagsOfVeryLongPath(t *testing.T) {
	path := strings.Repeat("/\n"+strings.Repeat("x", 253), 400)
	lines := strings.NewReader(backup.FlagLine(path, tree.NoDump) + backup.FlagLine("/dat", tree.Immutable))
	flags, err := backup.ReadFlags(lines)
	if err != nil || flags[path] != tree.NoDump || flags["/dat"] != tree.Immutable {
		t.Errorf("%d flags, %v", len(flags), err)
	}
}
