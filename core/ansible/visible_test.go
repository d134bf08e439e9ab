package ansible

import (
	"bytes"
	"testing"
)

func TestControlCharactersAreEscaped(t *testing.T) {
	for in, want := range map[string]string{
		"/dat/größe\tx\n":                "/dat/größe\tx\n",
		"/dat/\x1b[2Jx\r":                `/dat/\x1b[2Jx\r`,
		"/dat/\u009b31m\x7f\xff":         `/dat/\u009b31m\x7f\xff`,
		"a\u202egpj.exe":                 `a\u202egpj.exe`,
		"the replacement \ufffd is text": "the replacement \ufffd is text",
	} {
		if got := escapeControls(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	o := outcome{name: "sample", result: Result{
		Msg: "\x1b]0;x\a", Warnings: []string{"\x1b[1m"}, Diff: &Diff{Before: "a\x1b[2K\n"},
	}}
	o.in.call = Call{Diff: true, hidden: new(mask)}
	var stdout, stderr bytes.Buffer
	o.writeText(&stdout, &stderr, nil)
	Bar(&stdout, true).Show("reading backup \x1b[2J", -1, 0)
	if bytes.ContainsRune(stdout.Bytes(), 0x1b) || bytes.ContainsRune(stderr.Bytes(), 0x1b) {
		t.Errorf("%q\n%q", stdout.String(), stderr.String())
	}
}
