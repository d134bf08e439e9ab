package command

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// stderrFact is how many bytes of a program's last words go into a fault.
const stderrFact = 2048

// Error is a program that did not start, did not end well or not in time.
type Error struct {
	Argv   []string
	Code   int    // exit code, -1 if it has none
	Stderr string // all that it said there
	Err    error  // the cause: why it did not start, how it ended, or whose limit struck

	// Running is the id of a process that outlived its limit, else 0.
	Running int
}

// Error says which program failed, how, and the line of its stderr that says why.
func (e *Error) Error() string {
	msg := fmt.Sprintf("%s: %s", e.program(), e.reason())
	if line := telling(e.program(), e.Stderr); line != "" {
		return msg + ": " + line
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) program() string {
	if len(e.Argv) == 0 {
		return "command"
	}
	return filepath.Base(e.Argv[0])
}

func (e *Error) reason() string {
	var exit *exec.ExitError
	switch {
	case errors.Is(e.Err, exec.ErrNotFound):
		return "not installed (looked in " + Path + ")"
	case errors.As(e.Err, &exit) && e.Code >= 0:
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Fault reports the error with the facts argv, rc and stderr (its last 2 KiB),
// and pid if the program still runs.
func (e *Error) Fault() *fault.Error {
	f := &fault.Error{Code: e.code(), Msg: e.Error(), Err: e}
	f.With("argv", e.Argv).With("rc", e.Code).With("stderr", tail(e.Stderr, stderrFact))
	if f.Code == fault.Unsupported {
		f.WithHint("install the package that holds %s", e.program())
	}
	if e.Running != 0 {
		f.With("pid", e.Running).WithHint("wait until process %d has ended, then run this again", e.Running)
	}
	return f
}

func (e *Error) code() fault.Code {
	switch {
	case errors.Is(e.Err, exec.ErrNotFound):
		return fault.Unsupported
	case errors.Is(e.Err, context.DeadlineExceeded):
		return fault.Timeout
	case errors.Is(e.Err, context.Canceled):
		return fault.Interrupted
	}
	return fault.CommandFailed
}

// tail returns the last n bytes of s at most, from the start of a line if one
// starts there.
func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	if _, rest, cut := strings.Cut(s, "\n"); cut && rest != "" {
		return rest
	}
	return strings.ToValidUTF8(s, "")
}
