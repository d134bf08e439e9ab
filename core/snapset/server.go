package snapset

import (
	"context"
	"encoding/json"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// Kind is the kind of run that changes sets.
const Kind = "snapshot"

// The last steps in the journal entry of a run that only mounted a set, and of one whose set was rolled back together
// with the journal.
const (
	StepMounted    = "mounted"
	StepRolledBack = "rolled back"
)

// Server is what this package asks of the server that it runs on, so that tests can give it another one.
type Server struct {
	Runner   command.Runner                              // starts programs
	LVM      func(command.Runner) *lvm.LVM               // LVM, with commands that are run by the Runner
	Mounts   func() ([]filesystem.Mount, error)          // the mounts that programs see
	View     func(*lvm.Report, []filesystem.Mount) *View // how to ask for more
	StateDir string                                      // as journey.StateDir
}

// ThisServer returns the server that the program runs on.
func ThisServer() Server {
	return Server{
		Runner: command.Local{}, LVM: lvm.New, Mounts: filesystem.Mounts, View: NewView, StateDir: journey.StateDir,
	}
}

// Handler returns the handler that makes and settles runs of this Kind on the server.
func (s Server) Handler() journey.Handler {
	return journey.Handler{Do: s.do, Settle: s.settle, Release: s.release}
}

// Handler is Server.Handler for the server that the program runs on.
func Handler() journey.Handler { return ThisServer().Handler() }

func (s Server) do(ctx context.Context, run *journey.Run, data json.RawMessage) (ansible.Result, error) {
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
	}
	result, err := s.Apply(ctx, run, req)
	return result.ForAnsible(), err
}
