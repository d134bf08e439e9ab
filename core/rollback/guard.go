package rollback

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
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

// guardFile is a file of the guard, or a symbolic link.
type guardFile struct {
	path string
	text string
	link string // where it leads; empty for a file
}

func (f guardFile) write() error {
	if f.link != "" {
		return durable.Symlink(f.path, f.link)
	}
	if err := durable.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(f.path, []byte(f.text), 0o644)
}

// remove removes the file, and its directory unless somebody else's files are in it.
func (f guardFile) remove() error {
	if err := durable.Remove(f.path); err != nil {
		return err
	}
	if dir := filepath.Dir(f.path); dir != unitDir {
		_ = os.Remove(dir)
	}
	return nil
}

// guardFiles are the files of the guard of this rollback in the order in which they are written: what is required,
// then what starts it at boot (as systemctl enable does), and last what requires it. The power may fail between any
// two: a mount that requires a unit which does not exist is never made, and local-fs.target fails with it.
func (w *walk) guardFiles() ([]guardFile, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.Internal, "own program: %w", err)
	}
	return append(sharedFiles(self), dropIns(w.guarded())...), nil
}

// sharedFiles are those that all rollbacks have in common.
func sharedFiles(self string) []guardFile {
	needs := strings.Join(guardNeeds(filepath.Dir(self)), " ")
	return []guardFile{
		{path: filepath.Join(unitDir, guardUnit), text: fmt.Sprintf(guardText, self, needs)},
		{path: filepath.Join(unitDir, resumeUnit), text: fmt.Sprintf(resumeText, self)},
		{path: filepath.Join(unitDir, "local-fs.target.wants", guardUnit), link: "../" + guardUnit},
		{path: filepath.Join(unitDir, "multi-user.target.wants", resumeUnit), link: "../" + resumeUnit},
	}
}

// guardNeeds are the directories that the guard reads, with its program in one of them.
func guardNeeds(programs string) []string {
	if strings.HasPrefix(programs+"/", journey.State+"/") {
		return []string{journey.State}
	}
	return []string{journey.State, programs}
}

// dropIns have units require the guard.
func dropIns(units []string) []guardFile {
	var files []guardFile
	for _, unit := range units {
		files = append(files, guardFile{path: filepath.Join(unitDir, unit+".d", dropIn), text: dropInText})
	}
	return files
}

// allDropIns are those that there are, of whatever rollback.
func allDropIns() ([]guardFile, error) {
	paths, err := filepath.Glob(filepath.Join(unitDir, "*.d", dropIn))
	if err != nil {
		return nil, fault.New(fault.Internal, "drop-ins of the boot guard: %w", err)
	}
	var files []guardFile
	for _, path := range paths {
		files = append(files, guardFile{path: path})
	}
	return files, nil
}

// guarded are the units that must not start before the guard: the members' mounts, those that fstab has and that are not
// mounted now too, what opens encrypted members, and what findGuarded found.
func (w *walk) guarded() []string {
	units := w.mountUnits()
	for _, m := range w.state.Members {
		if m.Crypt != "" {
			units = append(units, "systemd-cryptsetup@"+strings.TrimPrefix(service.EscapePath("/"+m.Crypt), "-")+".service")
		}
	}
	return append(units, missing(w.state.Guarded, units)...)
}

func (w *walk) mountUnits() []string {
	var units []string
	for _, point := range append(points(w.state.Mounts), w.state.Listed...) {
		if unit := service.MountUnit(point); !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	return units
}

// findGuarded finds what else must not start before the guard. Mounts alone are not enough: systemd checks a file
// system before it mounts it, a mount with nofail keeps no service waiting, and what is no file system has no mount.
// So the checks wait, and the services that this rollback stops.
func (w *walk) findGuarded(ctx context.Context, f *found) error {
	checks, err := w.systemd.Fscks(ctx, w.mountUnits())
	if err != nil {
		return err
	}
	late, early, err := w.systemd.AfterMounts(ctx, w.state.Services.Stop)
	if err != nil {
		return err
	}
	w.state.Guarded = append(checks, late...)
	for _, unit := range early {
		w.warnings = append(w.warnings, unit+" may start at boot before file systems are mounted (DefaultDependencies=no): "+
			"should the power fail during the rollback, it does not wait until all volumes are rolled back")
	}
	if err := w.warnOfScripts(ctx); err != nil {
		return err
	}
	return w.unguarded(f)
}

// warnOfScripts names mounts that the next boot does not have: whoever has made them, such as a script, does not wait
// for the guard. The rollback itself makes them again, also after a power cut.
func (w *walk) warnOfScripts(ctx context.Context) error {
	for _, point := range points(w.state.Mounts) {
		if point == "/" || slices.Contains(w.state.Listed, point) {
			continue
		}
		gone, err := w.systemd.GoneAtBoot(ctx, service.MountUnit(point))
		if err != nil {
			return err
		}
		if gone {
			w.warnings = append(w.warnings, point+" is in neither fstab nor a unit: should the power fail during the rollback, "+
				"the rollback mounts it again, but what else mounts it at boot, such as a script, does not wait for the merge; "+
				"add it to fstab, or name the unit that mounts it in services")
		}
	}
	return nil
}

// unguarded refuses members that nothing would keep from being used at boot before they are merged: neither a mount
// nor a service that is known.
func (w *walk) unguarded(f *found) error {
	if len(w.state.Services.Stop) > 0 {
		return nil
	}
	fstab, err := filesystem.Fstab("/etc/fstab")
	if err != nil {
		return err
	}
	var wrong []error
	for i := range f.targets {
		t := &f.targets[i]
		if len(t.Mounts) > 0 || t.Crypt != "" || len(filesystem.FstabPoints(fstab, t.FS)) > 0 {
			continue
		}
		if snapset.IsPart(t, f.targets) {
			continue // a log is opened by the mount of its file system, which waits
		}
		wrong = append(wrong, fault.New(fault.Unsupported, "%s is not mounted, and no service is named that uses it: should "+
			"the power fail during the rollback, whatever opens it at boot would find it as it is now", t.LV.FullName()).
			WithHint("name the unit that uses it, such as a virtual machine's: services=UNIT; it is stopped, and waits at boot"))
	}
	return fault.All(wrong...)
}

// undermines refuses a volume that must be mounted before the guard can run: its mount would wait for the guard, and
// systemd breaks such a cycle by leaving out one of the two. The root file system is mounted before any unit starts.
// holds is what the volume holds that the server cannot do without, if anything.
func (w *walk) undermines(t *snapset.Target, holds string) error {
	programs, err := journey.ProgramDir()
	if err != nil {
		return err
	}
	why := ""
	for _, m := range w.ownMounts(t) {
		for _, dir := range guardNeeds(programs) {
			// RequiresMountsFor= waits for every mount point on the way.
			if m.Point != "/" && strings.HasPrefix(dir+"/", m.Point+"/") {
				why = "is mounted on " + m.Point + ", above " + dir
			}
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

func (w *walk) installGuard() error {
	files, err := w.guardFiles()
	if err != nil {
		return err
	}
	return journey.Alone(guardLock, func() error { return install(files) })
}

func install(files []guardFile) error {
	for _, f := range files {
		if err := f.write(); err != nil {
			return err
		}
		failpoint.Hit("rollback.guard.file")
	}
	return nil
}

// removeGuard takes the guard away, but for what other rollbacks still need. No other may begin in between: its record
// comes before its guard.
func (w *walk) removeGuard(ctx context.Context) error {
	return journey.Alone(guardLock, func() error { return w.dismantle(ctx) })
}

// dismantle removes the guard's files in the reverse order, and stops at the first that stays: what it requires must
// stay, too. In between systemd forgets that anything requires the guard: a timer or an automount may start a unit of
// which it has read so.
func (w *walk) dismantle(ctx context.Context) error {
	entries, err := w.trip.Journal.Unfinished()
	if err != nil {
		return err
	}
	alone, units := true, w.guarded()
	for _, e := range entries {
		if e.Kind != Kind || e.ID == w.trip.Entry().ID {
			continue
		}
		other, err := reopen(&journey.Trip{Journal: w.trip.Journal}, e)
		if err != nil {
			return err
		}
		alone, units = false, missing(units, other.guarded())
	}
	drops := dropIns(units)
	if alone {
		// Also those of a rollback whose record somebody has taken away: what requires a guard that is not there is never
		// mounted.
		if drops, err = allDropIns(); err != nil {
			return err
		}
	}
	if err := remove(drops); err != nil || !alone {
		return err
	}
	if w.forget != nil {
		if err := w.forget(ctx); err != nil {
			return err
		}
	}
	return remove(sharedFiles(""))
}

// forgetGuard has systemd forget what it has read of the guard.
func (w *walk) forgetGuard(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	return w.systemd.Forget(ctx, guardUnit)
}

// remove removes files, the last first.
func remove(files []guardFile) error {
	for _, f := range slices.Backward(files) {
		if err := f.remove(); err != nil {
			return err
		}
	}
	return nil
}
