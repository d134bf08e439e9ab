package backup

import (
	"errors"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// Explain turns an error of a tool that a backend ran into a fault without secrets. what says what the tool was run
// for, and begins the message. If the tool ran and returned an exit code other than 0, diagnose returns the fault's
// code, its reason and its hint. An error that is no *command.Error is returned as it is.
func (c Config) Explain(what string, err error, diagnose func(*command.Error) (fault.Code, string, string)) error {
	var failed *command.Error
	if !errors.As(err, &failed) {
		return err
	}
	f := failed.Fault()
	code, reason, hint := f.Code, f.Msg, f.Hint
	if code == fault.CommandFailed {
		code, reason, hint = diagnose(failed)
	}
	stderr, _ := f.Facts["stderr"].(string)
	out := fault.New(code, "%s: %s", what, c.Hide(reason)).
		With("argv", failed.Argv).With("rc", failed.Code).With("stderr", c.Hide(stderr)).WithHint("%s", c.Hide(hint))
	out.Err = failed.Err // so that the caller can ask whether the context ended the tool
	return out
}
