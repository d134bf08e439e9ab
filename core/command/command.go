// Package command is the one door to other programs: argv in, output or a typed
// error out. There is no shell, no inherited environment and no terminal, and
// every program has a limit.
//
// A program that changes something is never killed: an lvcreate that ends
// halfway leaves devices suspended. It is waited for, even when the caller has
// given up, and past its limit it is left to finish.
package command

import (
	"context"
	"time"
)

// DefaultLimit bounds a command that names no limit.
const DefaultLimit = 2 * time.Minute

// Cmd is a program and how to run it.
type Cmd struct {
	Argv  []string      // Argv[0]: a bare name, looked up in Path only
	Stdin []byte        // nil: /dev/null
	Env   []string      // KEY=VALUE, beside what every command gets
	Limit time.Duration // 0: DefaultLimit

	// Changes says that the program changes state: the end of ctx does not kill
	// it, and at Limit it is left running, which the error says. Without Changes
	// the program and its process group are killed in both cases.
	Changes bool

	PrivateMounts bool // give the program a mount namespace of its own (CLONE_NEWNS)
	Self          bool // Argv[0] is the absolute path of our own program
}

// Output is what a program said. The text is that of LC_ALL=C.
type Output struct {
	Stdout, Stderr string
	Elapsed        time.Duration
}

// Runner runs commands. Every package that needs a program is handed one.
//
// The error of a program that did not start, did not end well or did not end in
// time is an *Error; Output holds what it said until then.
type Runner interface {
	Run(ctx context.Context, c Cmd) (Output, error)
}
