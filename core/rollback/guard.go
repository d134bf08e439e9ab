package rollback

import (
	"context"
	"os"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// bootGuard installs and removes the boot guard of a rollback.
type bootGuard struct {
	*base
	forget func(context.Context) error // forgetUnit; nil in tests
}

// The boot guard: one unit finishes a rollback before its volumes are mounted, and another one mounts and starts the
// rest afterwards. systemd is not told of them now: they are for the next boot, and a reload of systemd takes seconds.
const (
	guardUnit  = "rewind-guard.service"
	resumeUnit = "rewind-resume.service"
	dropIn     = "rewind-guard.conf"
)

// The guard's KillMode keeps systemd from killing an LVM command at work when the guard fails or its time is up.
const guardText = `# Made by Rewind for the time of a rollback; it goes away with it.
[Unit]
Description=Rewind: finish a rollback before its volumes are mounted
Documentation=man:lvconvert(8)
DefaultDependencies=no
RequiresMountsFor=%[2]s
After=local-fs-pre.target systemd-udevd.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=15min
KillMode=process
ExecStart=%[1]s guard
`

const resumeText = `# Made by Rewind for the time of a rollback; it goes away with it.
[Unit]
Description=Rewind: mount and start what a rollback had stopped
After=local-fs.target dbus.service rewind-guard.service

[Service]
Type=exec
KillMode=process
ExecStart=%[1]s resume
`

const dropInText = `# Made by Rewind for the time of a rollback; it goes away with it.
[Unit]
Requires=rewind-guard.service
After=rewind-guard.service
`

// files returns the files of the guard of this rollback in the order in which they are written: first the unit
// that is required, then the link that starts it at boot (as systemctl enable makes it), and last the drop-ins that
// require it. The power may fail between any two files. A mount that requires a unit which does not exist is never
// made, and local-fs.target fails with it.
func (g *bootGuard) files() ([]guardFile, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.Internal, "own program: %w", err)
	}
	return append(g.server.sharedFiles(self), g.server.dropIns(g.state.guardedUnits())...), nil
}

// install writes the files of the guard.
func (g *bootGuard) install() error {
	files, err := g.files()
	if err != nil {
		return err
	}
	return journey.WithFileLock(g.server.guardLock(), func() error { return writeFiles(files) })
}

// remove removes the guard, except for what other unfinished rollbacks still need. It cannot miss a rollback that
// begins at the same time, because a rollback writes its journal entry before it installs the guard, and both take
// guardLock.
func (g *bootGuard) remove(ctx context.Context) error {
	return journey.WithFileLock(g.server.guardLock(), func() error { return g.removeUnneeded(ctx) })
}

// removeUnneeded removes the files of the guard in the reverse order. It stops at the first file that cannot be
// removed, because the units which that file requires must stay too. After the drop-ins are removed and before the
// units are, systemd is made to forget what it has read of the guard: otherwise it could start a unit, for a timer or
// an automount, that still requires the guard.
func (g *bootGuard) removeUnneeded(ctx context.Context) error {
	entries, err := g.run.Journal.Unfinished()
	if err != nil {
		return err
	}
	isOnly, units := true, g.state.guardedUnits()
	for _, e := range entries {
		if e.Kind != Kind || e.ID == g.run.Entry().ID {
			continue
		}
		other, err := g.server.reopen(&journey.Run{Journal: g.run.Journal}, e)
		if err != nil {
			return err
		}
		isOnly, units = false, except(units, other.state.guardedUnits())
	}
	files := g.server.dropIns(units)
	if isOnly {
		// Drop-ins of a rollback whose journal entry somebody has removed are removed too: a mount that requires a guard
		// which does not exist is never made.
		if files, err = g.server.installedDropIns(); err != nil {
			return err
		}
	}
	if err := g.server.removeFiles(files); err != nil || !isOnly {
		return err
	}
	if g.forget != nil {
		if err := g.forget(ctx); err != nil {
			return err
		}
	}
	return g.server.removeFiles(g.server.sharedFiles(""))
}

// forgetUnit has systemd forget what it has read of the guard.
func (g *bootGuard) forgetUnit(ctx context.Context) error {
	if err := g.connect(ctx); err != nil {
		return err
	}
	return g.systemd.Forget(ctx, guardUnit)
}
