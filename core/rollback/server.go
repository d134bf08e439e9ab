package rollback

import (
	"context"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// Server is what this package asks of the server that it runs on, so that tests can give it another one.
type Server struct {
	Sets    snapset.Server                // starts programs, looks at the volumes, and takes a set again
	LVM     func(command.Runner) *lvm.LVM // LVM, with commands that are run by the Runner
	Host    filesystem.Host               // mounts, devices, and who uses them
	Systemd func(context.Context) (*service.Systemd, error)

	JournalDir string // as journey.JournalDir
	RuntimeDir string // as journey.RuntimeDir; systemd's transient units and LVM's locks are on this file system too
	UnitDir    string // where an administrator's units lie; it survives a power cut, and systemd reads it at boot
}

// thisServer returns the server that the program runs on.
func thisServer() Server {
	return Server{
		Sets: snapset.ThisServer(), Host: filesystem.ThisHost(), Systemd: service.Connect,
		LVM:        func(r command.Runner) *lvm.LVM { return lvm.New(r).Direct(lvm.DeviceMapper) },
		JournalDir: journey.JournalDir, RuntimeDir: journey.RuntimeDir, UnitDir: "/etc/systemd/system",
	}
}

// Handler returns the functions that make a rollback on the server and that settle an interrupted one.
func (s Server) Handler() journey.Handler { return journey.Handler{Do: s.do, Settle: s.settle} }

// guardLock is held while the guard is installed or removed, because rollbacks of different volume groups share the
// guard.
func (s Server) guardLock() string { return s.RuntimeDir + "/guard.lock" }
