package filesystem

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// fakeProgram is a command.Runner whose programs print stdout and end with err.
type fakeProgram struct {
	stdout string
	err    error
}

func (s fakeProgram) Run(context.Context, command.Cmd) (command.Output, error) {
	return command.Output{Stdout: s.stdout}, s.err
}

// A device on which blkid finds nothing is told from a device that blkid could not read.
func TestTypeOfDistinguishesNothingFromUnreadable(t *testing.T) {
	failed := func(code int, stderr string) error {
		return &command.Error{Argv: []string{"blkid"}, Code: code, Stderr: stderr, Err: errors.New("exit status")}
	}
	for _, tt := range []struct {
		name string
		said fakeProgram
		code fault.Code
		msg  string
	}{
		{"nothing", fakeProgram{err: failed(2, "")}, fault.Unsupported, "no file system"},
		{
			"several", fakeProgram{err: failed(8, "blkid: /dev/x: ambivalent result\n")},
			fault.Unsupported, "several file systems",
		},
		{
			"unreadable", fakeProgram{err: failed(4, "blkid: error: /dev/x: Input/output error\n")},
			fault.CommandFailed, "Input/output error",
		},
		{
			"no blkid", fakeProgram{err: &command.Error{Argv: []string{"blkid"}, Code: -1, Err: exec.ErrNotFound}},
			fault.Unsupported, "not installed",
		},
		{
			"late", fakeProgram{err: &command.Error{Argv: []string{"blkid"}, Code: -1, Err: context.DeadlineExceeded}},
			fault.Timeout, "blkid",
		},
	} {
		_, err := TypeOf(t.Context(), tt.said, "/dev/x")
		if f := fault.Of(err); err == nil || f.Code != tt.code || !strings.Contains(f.Msg, tt.msg) {
			t.Errorf("%s: %v, want %s: %s", tt.name, err, tt.code, tt.msg)
		}
	}
	if fstype, err := TypeOf(t.Context(), fakeProgram{stdout: "xfs\n"}, "/dev/x"); fstype != "xfs" || err != nil {
		t.Errorf("%q %v", fstype, err)
	}
}
