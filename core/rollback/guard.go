package rollback

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
)

// unitDir is where an administrator's units live; what is there survives a power cut, and systemd reads it at boot.
const unitDir = "/etc/systemd/system"

// The boot guard: a unit that finishes a rollback before its volumes are mounted, and one that mounts and starts the
// rest afterwards. systemd is not told of them now: they are for the next boot, and a reload costs seconds.
const (
	guardUnit  = "rewind-guard.service"
	resumeUnit = "rewind-resume.service"
	dropIn     = "rewind-guard.conf"
)

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

// files are all files of the guard of this rollback, by path.
func (w *walk) guardFiles() (map[string]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.Internal, "own program: %w", err)
	}
	files := map[string]string{
		filepath.Join(unitDir, guardUnit):  fmt.Sprintf(guardText, self, journey.State),
		filepath.Join(unitDir, resumeUnit): fmt.Sprintf(resumeText, self),
	}
	for _, unit := range w.guarded() {
		files[filepath.Join(unitDir, unit+".d", dropIn)] = dropInText
	}
	return files, nil
}

// guarded are the units that must not start before the guard: the members' mounts, and what opens encrypted members.
func (w *walk) guarded() []string {
	var units []string
	for _, spec := range w.state.Mounts {
		units = append(units, service.MountUnit(spec.Point))
	}
	for _, m := range w.state.Members {
		if m.Crypt != "" {
			units = append(units, "systemd-cryptsetup@"+strings.TrimPrefix(service.EscapePath("/"+m.Crypt), "-")+".service")
		}
	}
	return units
}

// The links that have systemd start the two units at boot, as systemctl enable makes them.
var guardLinks = map[string]string{
	filepath.Join(unitDir, "local-fs.target.wants", guardUnit):    "../" + guardUnit,
	filepath.Join(unitDir, "multi-user.target.wants", resumeUnit): "../" + resumeUnit,
}

func (w *walk) installGuard() error {
	files, err := w.guardFiles()
	if err != nil {
		return err
	}
	for path, text := range files {
		if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for path, to := range guardLinks {
		if err := durable.Symlink(path, to); err != nil {
			return err
		}
	}
	return nil
}

// removeGuard takes the guard away, unless another rollback still needs it.
func (w *walk) removeGuard() error {
	others, err := w.trip.Journal.Unfinished()
	if err != nil {
		return err
	}
	var paths []string
	for _, unit := range w.guarded() {
		paths = append(paths, filepath.Join(unitDir, unit+".d", dropIn))
	}
	alone := true
	for _, e := range others {
		alone = alone && (e.Kind != Kind || e.ID == w.trip.Entry().ID)
	}
	if alone {
		for path := range guardLinks {
			paths = append(paths, path)
		}
		paths = append(paths, filepath.Join(unitDir, guardUnit), filepath.Join(unitDir, resumeUnit))
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, durable.Remove(path))
		if dir := filepath.Dir(path); dir != unitDir {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				continue // somebody else's files are in it
			}
		}
	}
	return fault.All(errs...)
}
