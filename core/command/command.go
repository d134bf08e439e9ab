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
	"os"
	"syscall"
	"time"
)

// DefaultLimit bounds a command that names no limit.
const DefaultLimit = 2 * time.Minute

// DefaultGrace is how long a program that is streamed may take to end.
const DefaultGrace = 10 * time.Second

// Cmd is a program and how to run it.
type Cmd struct {
	Argv  []string      // Argv[0]: a bare name, looked up in Path only
	Stdin []byte        // nil: /dev/null
	Hold  *os.File      // its stdin instead: a lock of this file's lasts as long as the program does
	Env   []string      // KEY=VALUE, beside what every command gets
	Limit time.Duration // 0: DefaultLimit; none for Stream

	// Changes says that the program changes state: the end of ctx does not kill
	// it, and at Limit it is left running, which the error says. Without Changes
	// the program and its process group are killed in both cases.
	Changes bool

	// The rest counts for Stream only.
	Stderr func(line string) // is handed each line of stderr as it comes; nil: nobody is
	Stop   syscall.Signal    // asks the program to end; 0: SIGTERM
	Grace  time.Duration     // from Stop to SIGKILL; 0: DefaultGrace
	Pulse  time.Duration     // how often to look whether a silent program works; 0: never
	Lull   time.Duration     // how late its lines may be handed on, for a program of many; 0: at once
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

// Streamer is a Runner that also hands on what a program says while it runs.
type Streamer interface {
	Runner

	// Stream runs c like Run and calls line with each line of stdout as it comes, split at \n and \r, empty ones
	// left out. It calls line with "" after each Pulse in which the program said nothing but used the processor: it
	// works. line and c.Stderr are called from the caller's goroutine; the program waits for them.
	//
	// At the end of ctx or at Limit the whole process group is sent Stop, and SIGKILL after Grace. What a program
	// leaves running in its group is killed when it ends. A program that Changes cannot be streamed, since nobody
	// would read what it says after that.
	//
	// Output holds no Stdout, and the last 64 KiB of Stderr.
	Stream(ctx context.Context, c Cmd, line func(string)) (Output, error)
}
