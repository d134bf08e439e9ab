package lvm_test

import (
	"context"
	"errors"
	"os/exec"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// fixedOutput is a Runner that answers every command with the same output and error.
type fixedOutput struct {
	stdout string
	err    error
}

func (p fixedOutput) Run(context.Context, command.Cmd) (command.Output, error) {
	return command.Output{Stdout: p.stdout}, p.err
}

func TestVersion(t *testing.T) {
	stdout := "  LVM version:     2.03.16(2) (2022-05-18)\n  Library version: 1.02.185 (2022-05-18)\n" +
		"  Driver version:  4.47.0\n"
	got, err := lvm.New(fixedOutput{stdout: stdout}).Version(t.Context())
	if got != "2.03.16(2)" || err != nil {
		t.Error(got, err)
	}
	got, err = lvm.New(fixedOutput{stdout: "LVM version:\n"}).Version(t.Context())
	if !errors.Is(err, fault.CommandFailed) {
		t.Error(got, err)
	}
	missing := &command.Error{Argv: []string{"lvm"}, Code: -1, Err: exec.ErrNotFound}
	if _, err = lvm.New(fixedOutput{err: missing}).Version(t.Context()); fault.Of(err).Code != fault.Unsupported {
		t.Error(err)
	}
}
