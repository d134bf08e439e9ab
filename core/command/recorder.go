package command

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Record is a command that was run, as a result reports it.
type Record struct {
	Argv []string `json:"argv"`
	RC   int      `json:"rc"` // exit code; -1 if it did not start, was killed or still runs
	MS   int64    `json:"ms"` // milliseconds
}

// Recorder is a Runner that remembers what it ran.
type Recorder struct {
	next Runner

	mu   sync.Mutex
	list []Record
}

// NewRecorder returns a Recorder in front of next.
func NewRecorder(next Runner) *Recorder { return &Recorder{next: next} }

// Run runs c and remembers it, in the order in which commands end.
func (r *Recorder) Run(ctx context.Context, c Cmd) (Output, error) {
	out, err := r.next.Run(ctx, c)
	done := Record{Argv: slices.Clone(c.Argv), RC: exitCode(err), MS: out.Elapsed.Milliseconds()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, done)
	return out, err
}

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

// Commands returns what was run until now.
func (r *Recorder) Commands() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}
