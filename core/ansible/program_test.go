package ansible

import (
	"context"
	"slices"
	"testing"
)

// One file holds several programs. Which one is run depends on the file's name, or on the first word, which is a
// program's name or an internal command.
func TestProgramIsChosenByFileNameFirstWordOrCommand(t *testing.T) {
	none := func(context.Context, []string) int { return 0 }
	programs := []Program{{name: "take"}, {name: "merge",
		internal: map[string]func(context.Context, []string) int{"settle": none}}}
	for _, c := range []struct {
		argv []string
		name string
		own  []string
	}{
		{[]string{"/usr/local/bin/merge", "name=take"}, "merge", []string{"/usr/local/bin/merge", "name=take"}},
		{[]string{"/root/.ansible/tmp/x/AnsiballZ_take", "/root/.ansible/tmp/x/args"}, "take",
			[]string{"/root/.ansible/tmp/x/AnsiballZ_take", "/root/.ansible/tmp/x/args"}},
		{[]string{"merge", "take"}, "merge", []string{"merge", "take"}},
		{[]string{"/store/rewind-12ab", "take", "-"}, "take", []string{"take", "-"}},
		{[]string{"/store/rewind-12ab", "settle", "all"}, "merge", []string{"/store/rewind-12ab", "settle", "all"}},
		{[]string{"/store/rewind-12ab", "name=x"}, "", nil},
		{[]string{"/store/rewind-12ab"}, "", nil},
		{nil, "", nil},
	} {
		p, own := chooseProgram(programs, c.argv)
		if (p == nil) != (c.name == "") || p != nil && p.name != c.name || !slices.Equal(own, c.own) {
			t.Errorf("%q: %v with %q", c.argv, p, own)
		}
	}
}
