// Package fault is the one shape in which Rewind says no: a stable code for
// programs, a sentence for people, a hint at what to do next, and the facts
// that were found.
//
// The code is what playbooks match on, so a code never changes its meaning.
package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
)

// Code names a kind of failure. It is an error itself, so that a caller asks
// errors.Is(err, fault.Busy).
type Code string

// Every code there is.
const (
	BadArguments    Code = "bad_arguments"     // an argument is unknown, misspelt or out of range
	NotFound        Code = "not_found"         // a volume, set, unit or backup does not exist
	Exists          Code = "exists"            // what should be created is there already and is something else
	SetDiffers      Code = "set_differs"       // a set of that name exists with other members
	NoSpace         Code = "no_space"          // a volume group has not enough room
	SnapshotInvalid Code = "snapshot_invalid"  // a snapshot overflowed, or will: its contents are lost
	Merging         Code = "merging"           // a merge that is under way forbids the request
	Busy            Code = "busy"              // something holds a volume or a mount open
	Unsupported     Code = "unsupported"       // this host, volume or file system cannot do it
	NoSingleInstant Code = "no_single_instant" // the members cannot be snapshotted at one instant here
	FreezeTimeout   Code = "freeze_timeout"    // writes stood still for longer than allowed; they go on again
	Timeout         Code = "timeout"           // a wait reached its limit
	Locked          Code = "locked"            // another run works on the same volume group
	NoKey           Code = "no_key"            // an encrypted volume cannot be opened unattended
	CommandFailed   Code = "command_failed"    // a program ended with an error
	ServiceFailed   Code = "service_failed"    // a unit did not stop or start
	MountFailed     Code = "mount_failed"      // a file system could not be mounted or unmounted
	MergeFailed     Code = "merge_failed"      // LVM or the kernel did not merge a snapshot
	PoolDamaged     Code = "pool_damaged"      // a thin pool needs repair before anything else
	Interrupted     Code = "interrupted"       // a signal or a lost caller ended the run
	JournalDamaged  Code = "journal_damaged"   // a record of an earlier run cannot be read
	NotRoot         Code = "not_root"          // it takes root
	Unwritable      Code = "unwritable"        // a program's own files cannot be written: no room, or read-only

	RepositoryMissing Code = "repository_missing" // there is no repository of backups at the place named
	RepositoryLocked  Code = "repository_locked"  // another program holds the repository
	RepositoryFull    Code = "repository_full"    // the place that holds the repository has no room
	WrongPassword     Code = "wrong_password"     // the repository does not open with this password
	SourceUnreadable  Code = "source_unreadable"  // a file could not be read for the backup
	SourceVanished    Code = "source_vanished"    // a file was gone when it was to be read for the backup
	BackendFailed     Code = "backend_failed"     // a backend crashed, hung, or did not keep to its contract
	BackendUntrusted  Code = "backend_untrusted"  // a backend that others may have changed is not started

	Internal Code = "internal" // a defect of Rewind itself
)

// Error makes a Code a target for errors.Is.
func (c Code) Error() string { return string(c) }

// Error is a failure as it is reported. In JSON it is {code, msg, hint, facts};
// the cause stays in the process.
type Error struct {
	Code  Code           `json:"code"`
	Msg   string         `json:"msg"`
	Hint  string         `json:"hint,omitempty"`
	Facts map[string]any `json:"facts,omitempty"`
	Err   error          `json:"-"`
}

// Faulter is an error that knows how it is to be reported, such as that of a
// program that failed.
type Faulter interface {
	error
	Fault() *Error
}

// New returns a failure. The format may hold %w; the facts and the hint of the
// wrapped error are kept, because the cause knows best what was found.
func New(code Code, format string, a ...any) *Error {
	err := fmt.Errorf(format, a...)
	e := &Error{Code: code, Msg: err.Error()}
	causes := unwrap(err)
	if len(causes) == 0 {
		return e
	}
	e.Err = causes[0]
	if len(causes) > 1 {
		e.Err = err
	}
	for _, cause := range causes {
		e.inherit(find(cause))
	}
	return e
}

// unwrap returns the errors that err wraps directly.
func unwrap(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	if one := errors.Unwrap(err); one != nil {
		return []error{one}
	}
	return nil
}

// inherit takes over what cause knows and e does not.
func (e *Error) inherit(cause *Error) {
	if cause == nil {
		return
	}
	if e.Hint == "" {
		e.Hint = cause.Hint
	}
	for key, value := range cause.Facts {
		if _, known := e.Facts[key]; !known {
			e.With(key, value)
		}
	}
}

// WithHint says what to do next and returns e.
func (e *Error) WithHint(format string, a ...any) *Error {
	e.Hint = fmt.Sprintf(format, a...)
	return e
}

// With adds a fact, which must be fit for JSON, and returns e.
func (e *Error) With(key string, value any) *Error {
	if e.Facts == nil {
		e.Facts = make(map[string]any)
	}
	e.Facts[key] = value
	return e
}

func (e *Error) Error() string { return e.Msg }

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is e's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// Of returns the fault inside err, with err's whole text as its message; nil
// for nil. A context's end becomes timeout or interrupted, any other error
// internal.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok {
		return e
	}
	if inner := find(err); inner != nil {
		return &Error{Code: inner.Code, Msg: err.Error(), Hint: inner.Hint, Facts: maps.Clone(inner.Facts), Err: err}
	}
	return &Error{Code: codeOf(err), Msg: err.Error(), Err: err}
}

// find returns the outermost fault that err is or wraps, nil if there is none.
func find(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var f Faulter
	if errors.As(err, &f) {
		return f.Fault()
	}
	return nil
}

// codeOf returns the code of an error that says none.
func codeOf(err error) Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Interrupted
	}
	return Internal
}
