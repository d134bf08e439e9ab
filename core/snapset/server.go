package snapset

import (
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
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
