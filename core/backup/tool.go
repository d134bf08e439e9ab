package backup

import (
	"errors"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// Explain turns an error of a tool that a backend runs into the fault it means, without secrets; what says what it was
// run for. meaning is asked where the tool ran and said no: for the code, the reason and the next step.
func (c Config) Explain(what string, err error, meaning func(*command.Error) (fault.Code, string, string)) error {
	var failed *command.Error
	if !errors.As(err, &failed) {
		return err
	}
	f := failed.Fault()
	code, reason, hint := f.Code, f.Msg, f.Hint
	if code == fault.CommandFailed {
		code, reason, hint = meaning(failed)
	}
	said, _ := f.Facts["stderr"].(string)
	clean := fault.New(code, "%s: %s", what, c.Hide(reason)).
		With("argv", failed.Argv).With("rc", failed.Code).With("stderr", c.Hide(said)).WithHint("%s", c.Hide(hint))
	clean.Err = failed.Err // how it ended: the caller asks whether that was the context
	return clean
}
