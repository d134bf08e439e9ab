// Package command runs other programs. Nearly all other packages start programs only through it: core/house_test.go
// names the exception. There is no shell, no inherited environment and no terminal, and every program that Run starts
// has a time limit. A failure is an *Error.
//
// A program that changes something is never killed, because an lvcreate that is killed halfway leaves devices
// suspended. Run waits for such a program even after the caller's context has ended. When the program reaches its time
// limit, Run returns and the program goes on by itself.
package command

import (
	"context"
	"os"
	"syscall"
	"time"
)

// DefaultLimit is the time limit of a command whose Cmd.Limit is 0.
const DefaultLimit = 2 * time.Minute

// DefaultGrace is the time between Cmd.Stop and SIGKILL if Cmd.Grace is 0.
const DefaultGrace = 10 * time.Second

// Cmd is a program and how to run it.
type Cmd struct {
	Argv  []string      // Argv[0] is a name without a directory, looked up in Path only
	Stdin []byte        // content of stdin; nil: /dev/null
	Hold  *os.File      // replaces Stdin; a flock(2) lock on this file then lasts until the program ends
	Env   []string      // KEY=VALUE, in addition to the variables that every command gets
	Limit time.Duration // 0: DefaultLimit for Run, no limit for Stream

	// Changes says that the program changes state. If it is set, Run does not kill the program: Run ignores the end of
	// ctx, and at Limit it leaves the program running and returns an *Error with its process id. If it is not set, Run
	// kills the program and its process group in both cases.
	Changes bool

	Started func(pid int) // called with the program's process id as soon as it has started; may be nil

	// Only Stream uses the fields below.
	Stderr    func(line string) // called with each line of stderr; may be nil
	Stop      syscall.Signal    // the signal that asks the program to end; 0: SIGTERM
	Grace     time.Duration     // time between Stop and SIGKILL; 0: DefaultGrace
	BusyCheck time.Duration     // interval between two checks whether a silent program is busy; 0: no checks
	MaxIdle   time.Duration     // how long after its last line an idle program counts as busy, too; 0: not at all
	MaxDelay  time.Duration     // maximum delay before lines are delivered, so that many come at once; 0: no delay
}

// Output is what a program wrote. The program runs with LC_ALL=C.
type Output struct {
	Stdout, Stderr string
	Elapsed        time.Duration // from its start to its end, or until it was left running
}

// Runner runs commands. Every package that needs other programs is given one.
//
// If a program did not start, ended with an error or did not end in time, the error is an *Error, and Output holds what
// the program wrote until then.
type Runner interface {
	// Run runs c and waits for it.
	Run(ctx context.Context, c Cmd) (Output, error)
}

// Streamer is a Runner that can also deliver the output of a program while the program runs.
type Streamer interface {
	Runner

	// Stream runs c like Run and calls line with each line of stdout as soon as the program writes it. Lines end at \n
	// or \r, and empty ones are left out. After each BusyCheck in which the program wrote nothing but used the processor,
	// or wrote its last line less than MaxIdle ago, Stream calls line with "" to show that the program is busy. line and
	// c.Stderr are called from the caller's goroutine. The program is blocked when it writes more than they read.
	//
	// When ctx ends or Limit is reached, Stream sends Stop to the whole process group, and SIGKILL after Grace. When the
	// program ends, Stream kills what is left of its process group. A program with Changes cannot be streamed, because
	// nobody would read the output of a program that is left running.
	//
	// Output holds no Stdout, and only the last 64 KiB of Stderr.
	Stream(ctx context.Context, c Cmd, line func(string)) (Output, error)
}
