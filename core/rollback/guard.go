package rollback

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// unitDir is where an administrator's units live; what is there survives a power cut, and systemd reads it at boot. Tests
// have one of their own.
var unitDir = "/etc/systemd/system"

// guardLock is held while the guard is installed or removed: rollbacks of different volume groups share it.
var guardLock = journey.Run + "/guard.lock"

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

// guarded are the units that must not start before the guard: the members' mounts, those that fstab has and that are not
// mounted now too, and what opens encrypted members.
func (w *walk) guarded() []string {
	var units []string
	for _, point := range append(points(w.state.Mounts), w.state.Listed...) {
		if unit := service.MountUnit(point); !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	for _, m := range w.state.Members {
		if m.Crypt != "" {
			units = append(units, "systemd-cryptsetup@"+strings.TrimPrefix(service.EscapePath("/"+m.Crypt), "-")+".service")
		}
	}
	return units
}

// undermines refuses a volume that must be mounted before the guard can run: its mount would wait for the guard, and
// systemd breaks such a cycle by leaving out one of the two. The root file system is mounted before any unit starts.
// holds is what the volume holds that the server cannot do without, if anything.
func (w *walk) undermines(t *snapset.Target, holds string) error {
	why := ""
	for _, m := range w.ownMounts(t) {
		// RequiresMountsFor= waits for every mount point on the way.
		if m.Point != "/" && strings.HasPrefix(journey.State+"/", m.Point+"/") {
			why = "is mounted on " + m.Point + ", above " + journey.State
		}
	}
	if holds == journey.State {
		why = "holds " + journey.State
	}
	if why == "" {
		return nil
	}
	return fault.New(fault.Unsupported, "%s %s, which the boot guard needs before it lets any volume of the set be mounted", t.LV.FullName(), why).
		WithHint("leave %s out: take sets without it, or name the other snapshots of this one (lvm_merge snapshots=...)", t.LV.FullName())
}

// guardLinks are the links that have systemd start the two units at boot, as systemctl enable makes them.
func guardLinks() map[string]string {
	return map[string]string{
		filepath.Join(unitDir, "local-fs.target.wants", guardUnit):    "../" + guardUnit,
		filepath.Join(unitDir, "multi-user.target.wants", resumeUnit): "../" + resumeUnit,
	}
}

func (w *walk) installGuard() error {
	files, err := w.guardFiles()
	if err != nil {
		return err
	}
	return journey.Alone(guardLock, func() error { return install(files) })
}

func install(files map[string]string) error {
	for path, text := range files {
		if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for path, to := range guardLinks() {
		if err := durable.Symlink(path, to); err != nil {
			return err
		}
	}
	return nil
}

// removeGuard takes the guard away, unless another rollback still needs it. No other may begin in between: its record
// comes before its guard.
func (w *walk) removeGuard() error {
	return journey.Alone(guardLock, w.dismantle)
}

func (w *walk) dismantle() error {
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
		for path := range guardLinks() {
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
