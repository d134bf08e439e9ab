package command

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Record describes a command that was run. It is part of a module's result.
type Record struct {
	Argv []string `json:"argv"`
	RC   int      `json:"rc"` // exit code; -1 if the program did not start, was killed or still runs
	MS   int64    `json:"ms"` // how long it ran, in milliseconds
}

// Recorder is a Runner that records the commands that it runs. It is safe for concurrent use.
type Recorder struct {
	next Runner

	mu      sync.Mutex
	records []Record
}

// NewRecorder returns a Recorder that runs commands with next.
func NewRecorder(next Runner) *Recorder { return &Recorder{next: next} }

// Run runs c and records it. The records are in the order in which the commands ended.
func (r *Recorder) Run(ctx context.Context, c Cmd) (Output, error) {
	out, err := r.next.Run(ctx, c)
	record := Record{Argv: slices.Clone(c.Argv), RC: exitCode(err), MS: out.Elapsed.Milliseconds()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, record)
	return out, err
}

// exitCode returns the exit code of a command that returned err; -1 if it has none.
func exitCode(err error) int {
	var failed *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed):
		return failed.Code
	}
	return -1
}

// Commands returns the records of all commands that have ended so far.
func (r *Recorder) Commands() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.records)
}
