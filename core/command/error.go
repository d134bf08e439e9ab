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

// stderrFactSize is how many bytes of a program's stderr, from its end, become a fact of the fault.
const stderrFactSize = 2048

// Error says that a program did not start, ended with an error, or did not end in time.
type Error struct {
	Argv   []string
	Code   int    // exit code; -1 if there is none
	Stderr string // everything that was read of its stderr
	Err    error  // the cause: why it did not start, how it ended, or which limit it reached

	// Running is the process id of a program that was left running; 0 if none was.
	Running int
}

// Error returns the program's name, how it failed, and the line of its stderr that says why.
func (e *Error) Error() string {
	msg := fmt.Sprintf("%s: %s", e.program(), e.reason())
	if line := causeLine(e.program(), e.Stderr); line != "" {
		return msg + ": " + line
	}
	return msg
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// program returns the program's name.
func (e *Error) program() string {
	if len(e.Argv) == 0 {
		return "command"
	}
	return filepath.Base(e.Argv[0])
}

// reason says how the program failed.
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

// Fault returns the error as a fault with the facts argv, rc (the exit code), stderr (the last 2 KiB), and pid if the
// program was left running. The code is unsupported if the program is not installed, timeout if it reached its limit,
// interrupted if the context was cancelled, and command_failed otherwise.
func (e *Error) Fault() *fault.Error {
	f := &fault.Error{Code: e.code(), Msg: e.Error(), Err: e}
	f.With("argv", e.Argv).With("rc", e.Code).With("stderr", tail(e.Stderr, stderrFactSize))
	if f.Code == fault.Unsupported {
		f.WithHint("install the package that holds %s", e.program())
	}
	if e.Running != 0 {
		f.With("pid", e.Running).WithHint("wait until process %d has ended, then run this again", e.Running)
	}
	return f
}

// code returns the code of the fault.
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

// tail returns at most the last n bytes of s. If a line starts in them, it returns them from there on.
func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	if _, lines, found := strings.Cut(s, "\n"); found && lines != "" {
		return lines
	}
	return strings.ToValidUTF8(s, "")
}
