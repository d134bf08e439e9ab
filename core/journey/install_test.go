package journey

import (
	"strings"
	"testing"
)

func TestVersionOf(t *testing.T) {
	t.Parallel()
	program := func(id, rest string) string {
		head := "\x7fELF" + id
		return head + strings.Repeat("\x00", headSize-len(head)) + rest
	}
	note := string(buildNote)
	cases := map[string]struct {
		one, other string
		same       bool
	}{
		"another build":                {program(note+"first", "code"), program(note+"second", "code"), false},
		"the same build":               {program(note+"first", "code"), program(note+"first", "code"), true},
		"another, without a build ID":  {program("", "code"), program("", "edoc"), false},
		"the same, without a build ID": {program("", "code"), program("", "code"), true},
		"shorter than a head":          {"#!/bin/sh\ntrue\n", "#!/bin/sh\nfalse\n", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, err := versionOf(strings.NewReader(c.one))
			if err != nil {
				t.Fatal(err)
			}
			other, err := versionOf(strings.NewReader(c.other))
			if err != nil || len(other) != 16 || (one == other) != c.same {
				t.Errorf("%q and %q, %v", one, other, err)
			}
		})
	}
}

// What the build ID covers is not read again.
func TestVersionReadsNoMoreThanTheHead(t *testing.T) {
	t.Parallel()
	rest := strings.NewReader(strings.Repeat("\x00", headSize-len(buildNote)) + string(buildNote) + "code")
	if _, err := versionOf(rest); err != nil || rest.Len() != len("code") {
		t.Errorf("%d bytes are left, %v", rest.Len(), err)
	}
}
