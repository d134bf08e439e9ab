// Package fault defines the form of all failures that Rewind reports: a stable code for programs, a message for people,
// a hint that says what to do next, and the facts that were found.
//
// Playbooks match on the code, so that a code never changes its meaning.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Code names a kind of failure. It is itself an error, so that a caller can ask errors.Is(err, fault.Busy).
type Code string

// These are all codes.
const (
	BadArguments    Code = "bad_arguments"     // an argument is unknown, misspelt or out of range
	NotFound        Code = "not_found"         // a volume, set, unit or backup does not exist
	Exists          Code = "exists"            // what should be created exists already, and is something else
	SetDiffers      Code = "set_differs"       // a set of that name exists with other members
	NoSpace         Code = "no_space"          // a volume group or a file system does not have enough room
	SnapshotInvalid Code = "snapshot_invalid"  // a snapshot has overflowed or would overflow, which loses its content
	Merging         Code = "merging"           // a merge under way does not allow the request
	Busy            Code = "busy"              // something holds a volume or a mount open
	Unsupported     Code = "unsupported"       // this host, volume or file system cannot do it
	OutsideVolume   Code = "outside_volume"    // a database's files lie on volumes that are not in the set
	NoSingleInstant Code = "no_single_instant" // the members cannot be snapshotted at one instant here
	FreezeTimeout   Code = "freeze_timeout"    // writes waited for longer than allowed; they go on again
	Timeout         Code = "timeout"           // a wait reached its limit
	Locked          Code = "locked"            // another run works on the same volume group
	NoKey           Code = "no_key"            // an encrypted volume cannot be opened unattended
	CommandFailed   Code = "command_failed"    // a program ended with an error
	ServiceFailed   Code = "service_failed"    // a unit did not stop or start
	MountFailed     Code = "mount_failed"      // a file system could not be mounted or unmounted
	MergeFailed     Code = "merge_failed"      // LVM or the kernel did not merge a snapshot
	PoolDamaged     Code = "pool_damaged"      // a thin pool needs repair before anything else
	Interrupted     Code = "interrupted"       // a signal or the loss of its caller ended the run
	JournalDamaged  Code = "journal_damaged"   // a record of an earlier run cannot be read
	NotRoot         Code = "not_root"          // only root may do it
	Unwritable      Code = "unwritable"        // a program's own files cannot be written: no room, or read-only

	RepositoryMissing Code = "repository_missing" // there is no repository of backups at the place that was named
	RepositoryLocked  Code = "repository_locked"  // another program holds the repository
	RepositoryFull    Code = "repository_full"    // there is no room at the place of the repository
	WrongPassword     Code = "wrong_password"     // the repository does not open with this password
	SourceUnreadable  Code = "source_unreadable"  // a file could not be read for the backup
	SourceVanished    Code = "source_vanished"    // a file was removed before the backup could read it
	BackendFailed     Code = "backend_failed"     // a backend crashed, hung, or violated its contract
	BackendUntrusted  Code = "backend_untrusted"  // a backend was not started: others than root may have changed it

	Internal Code = "internal" // a defect of Rewind itself
)

// Error returns the code. It makes a Code a possible target of errors.Is.
func (c Code) Error() string { return string(c) }

// Error is a failure as Rewind reports it, in short a fault. Its JSON is {code, msg, hint, facts}, without the cause.
type Error struct {
	Code  Code           `json:"code"`
	Msg   string         `json:"msg"`             // for people: what failed, and why
	Hint  string         `json:"hint,omitempty"`  // what to do next
	Facts map[string]any `json:"facts,omitempty"` // for programs: what was found
	Err   error          `json:"-"`               // the cause; may be nil
}

// Faulter is an error that can be reported as a fault, such as command.Error.
type Faulter interface {
	error
	// Fault returns the error as a fault.
	Fault() *Error
}

// New returns a fault with this code and message. The format may contain %w. The fault then takes over the hint and the
// facts of the wrapped error, which knows best what was found. If the message names the path of a wrapped fs.PathError
// itself, it does not say that twice: "read /x: permission denied", not "read /x: open /x: permission denied".
func New(code Code, format string, a ...any) *Error {
	err := fmt.Errorf(format, withoutNamedPaths(a)...)
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

// withoutNamedPaths returns the arguments of a format with the cause in the place of each fs.PathError whose path is
// another argument.
func withoutNamedPaths(a []any) []any {
	for i, arg := range a {
		e, ok := arg.(*fs.PathError)
		if ok && slices.Contains(a, any(e.Path)) {
			a = slices.Clone(a)
			a[i] = e.Err
		}
	}
	return a
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

// inherit copies the hint and the facts of cause that e does not have.
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

// WithHint sets the hint, which says what to do next, and returns e.
func (e *Error) WithHint(format string, a ...any) *Error {
	e.Hint = fmt.Sprintf(format, a...)
	return e
}

// With sets a fact and returns e. It must be possible to encode value as JSON.
func (e *Error) With(key string, value any) *Error {
	if e.Facts == nil {
		e.Facts = make(map[string]any)
	}
	e.Facts[key] = value
	return e
}

// Error returns the message.
func (e *Error) Error() string { return e.Msg }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the code of e.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// Of returns err as a fault; nil for nil. If err wraps a fault or a Faulter, the result has its code, hint and facts,
// and the whole text of err as its message. Otherwise the code is timeout or interrupted for the error of a context,
// and internal for any other error.
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

// find returns the outermost fault in the chain of err; nil if there is none.
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

// codeOf returns the code for an error that is no fault and wraps none.
func codeOf(err error) Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Interrupted
	}
	return Internal
}
