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

// guardFile is a file of the guard, or a symbolic link.
type guardFile struct {
	path string
	text string
	link string // the target of the symbolic link; empty for a file
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

// removeFile removes a file of the guard, and its directory unless that contains other files.
func (s Server) removeFile(f guardFile) error {
	if err := durable.Remove(f.path); err != nil {
		return err
	}
	if dir := filepath.Dir(f.path); dir != s.UnitDir {
		_ = os.Remove(dir)
	}
	return nil
}

// guardFiles returns the files of the guard of this rollback in the order in which they are written: first the unit
// that is required, then the link that starts it at boot (as systemctl enable makes it), and last the drop-ins that
// require it. The power may fail between any two files. A mount that requires a unit which does not exist is never
// made, and local-fs.target fails with it.
func (rb *rollback) guardFiles() ([]guardFile, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.Internal, "own program: %w", err)
	}
	return append(rb.server.sharedFiles(self), rb.server.dropIns(rb.guardedUnits())...), nil
}

// sharedFiles returns the files that all rollbacks have in common.
func (s Server) sharedFiles(self string) []guardFile {
	needs := strings.Join(guardNeeds(filepath.Dir(self)), " ")
	return []guardFile{
		{path: filepath.Join(s.UnitDir, guardUnit), text: fmt.Sprintf(guardText, self, needs)},
		{path: filepath.Join(s.UnitDir, resumeUnit), text: fmt.Sprintf(resumeText, self)},
		{path: filepath.Join(s.UnitDir, "local-fs.target.wants", guardUnit), link: "../" + guardUnit},
		{path: filepath.Join(s.UnitDir, "multi-user.target.wants", resumeUnit), link: "../" + resumeUnit},
	}
}

// guardNeeds returns the directories that the guard reads, including the one that contains its program.
func guardNeeds(programDir string) []string {
	if strings.HasPrefix(programDir+"/", journey.StateDir+"/") {
		return []string{journey.StateDir}
	}
	return []string{journey.StateDir, programDir}
}

// dropIns returns the drop-ins that make units require the guard.
func (s Server) dropIns(units []string) []guardFile {
	var files []guardFile
	for _, unit := range units {
		files = append(files, guardFile{path: filepath.Join(s.UnitDir, unit+".d", dropIn), text: dropInText})
	}
	return files
}

// installedDropIns returns all drop-ins of the guard that exist, of any rollback.
func (s Server) installedDropIns() ([]guardFile, error) {
	paths, err := filepath.Glob(filepath.Join(s.UnitDir, "*.d", dropIn))
	if err != nil {
		return nil, fault.New(fault.Internal, "drop-ins of the boot guard: %w", err)
	}
	var files []guardFile
	for _, path := range paths {
		files = append(files, guardFile{path: path})
	}
	return files, nil
}

// guardedUnits returns the units that must not start before the guard: the mounts of the members, also those that fstab
// has and that are not made now; the units that open encrypted members; and the units that findGuardedUnits found.
func (rb *rollback) guardedUnits() []string {
	units := rb.mountUnits()
	for _, m := range rb.state.Members {
		if m.Crypt != "" {
			units = append(units, "systemd-cryptsetup@"+strings.TrimPrefix(service.EscapePath("/"+m.Crypt), "-")+".service")
		}
	}
	return append(units, except(rb.state.Guarded, units)...)
}

// mountUnits returns the units of the members' mounts, and of the mounts that fstab has for the members.
func (rb *rollback) mountUnits() []string {
	var units []string
	for _, point := range append(mountPoints(rb.state.Mounts), rb.state.Listed...) {
		if unit := service.MountUnit(point); !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	return units
}

// findGuardedUnits finds what else must not start before the guard. The mounts alone are not enough: systemd checks a
// file system before it mounts it, a mount with the option nofail delays no service, and a volume without a file system
// has no mount. Therefore the file system checks, and the services that this rollback stops, wait for the guard too.
func (rb *rollback) findGuardedUnits(ctx context.Context, f *findings) error {
	checks, err := rb.systemd.FileSystemChecks(ctx, rb.mountUnits())
	if err != nil {
		return err
	}
	afterMounts, beforeMounts, err := rb.systemd.AfterMounts(ctx, rb.state.Services.Stop)
	if err != nil {
		return err
	}
	rb.state.Guarded = append(checks, afterMounts...)
	for _, unit := range beforeMounts {
		rb.warnings = append(rb.warnings, unit+
			" may start at boot before file systems are mounted (DefaultDependencies=no): "+
			"should the power fail during the rollback, it does not wait until all volumes are rolled back")
	}
	if err := rb.warnOfScripts(ctx); err != nil {
		return err
	}
	return rb.checkGuarded(f)
}

// warnOfScripts warns of mounts for which no unit exists at the next boot: what made them, such as a script, does not
// wait for the guard. The rollback itself makes these mounts again, also after a power cut.
func (rb *rollback) warnOfScripts(ctx context.Context) error {
	for _, point := range mountPoints(rb.state.Mounts) {
		if point == "/" || slices.Contains(rb.state.Listed, point) {
			continue
		}
		isGone, err := rb.systemd.GoneAtBoot(ctx, service.MountUnit(point))
		if err != nil {
			return err
		}
		if isGone {
			rb.warnings = append(rb.warnings, point+" is in neither fstab nor a unit: "+
				"should the power fail during the rollback, "+
				"the rollback mounts it again, but what else mounts it at boot, such as a script, does not wait for the merge; "+
				"add it to fstab, or name the unit that mounts it in services")
		}
	}
	return nil
}

// checkGuarded refuses members that nothing would keep from being used at boot before they are merged, because they
// have neither a mount nor a known service (unsupported).
func (rb *rollback) checkGuarded(f *findings) error {
	if usesVolumes(rb.state.Services.Stop) {
		return nil
	}
	fstab, err := rb.server.Host.Fstab()
	if err != nil {
		return err
	}
	var errs []error
	for i := range f.targets {
		t := &f.targets[i]
		if len(t.Mounts) > 0 || t.Crypt != "" || len(filesystem.FstabPoints(fstab, t.FS)) > 0 {
			continue
		}
		if snapset.IsPart(t, f.targets) {
			continue // the mount of its file system opens a log, and that mount waits for the guard
		}
		errs = append(errs, fault.New(fault.Unsupported, "%s is not mounted, and no service is named that uses it: should "+
			"the power fail during the rollback, whatever opens it at boot would find it as it is now", t.LV.FullName()).
			WithHint("name the unit that uses it, such as a virtual machine's: services=UNIT; it is stopped, and waits at boot"))
	}
	return fault.All(errs...)
}

// checkBootOrder refuses a volume that must be mounted before the guard can run (unsupported). Its mount would wait for
// the guard and the guard for its mount; systemd breaks such a cycle by leaving one of the two out. The root file
// system is mounted before any unit starts, and is not refused. neededPath is a path on the volume that the server
// cannot do without; empty if there is none.
func (rb *rollback) checkBootOrder(t *snapset.Target, journalDir, neededPath string) error {
	programDir, err := journey.ProgramDir()
	if err != nil {
		return err
	}
	reason := ""
	for _, m := range rb.ownMounts(t) {
		for _, dir := range guardNeeds(programDir) {
			// RequiresMountsFor= waits for every mount point on the way to the directory.
			if m.Point != "/" && strings.HasPrefix(dir+"/", m.Point+"/") {
				reason = "is mounted on " + m.Point + ", above " + dir
			}
		}
	}
	if neededPath == journalDir {
		reason = "holds " + journalDir
	}
	if reason == "" {
		return nil
	}
	return fault.New(fault.Unsupported,
		"%s %s, which the boot guard needs before it lets any volume of the set be mounted", t.LV.FullName(), reason).
		WithHint("leave %s out: take sets without it, or name the other snapshots of this one (lvm_merge snapshots=...)",
			t.LV.FullName())
}

// installGuard writes the files of the guard.
func (rb *rollback) installGuard() error {
	files, err := rb.guardFiles()
	if err != nil {
		return err
	}
	return journey.WithFileLock(rb.server.guardLock(), func() error { return writeFiles(files) })
}

func writeFiles(files []guardFile) error {
	for _, f := range files {
		if err := f.write(); err != nil {
			return err
		}
		failpoint.Hit("rollback.guard.file")
	}
	return nil
}

// removeGuard removes the guard, except for what other unfinished rollbacks still need. It cannot miss a rollback that
// begins at the same time, because a rollback writes its journal entry before it installs the guard, and both take
// guardLock.
func (rb *rollback) removeGuard(ctx context.Context) error {
	return journey.WithFileLock(rb.server.guardLock(), func() error { return rb.removeGuardFiles(ctx) })
}

// removeGuardFiles removes the files of the guard in the reverse order. It stops at the first file that cannot be
// removed, because the units which that file requires must stay too. After the drop-ins are removed and before the
// units are, systemd is made to forget what it has read of the guard: otherwise it could start a unit, for a timer or
// an automount, that still requires the guard.
func (rb *rollback) removeGuardFiles(ctx context.Context) error {
	entries, err := rb.run.Journal.Unfinished()
	if err != nil {
		return err
	}
	isOnly, units := true, rb.guardedUnits()
	for _, e := range entries {
		if e.Kind != Kind || e.ID == rb.run.Entry().ID {
			continue
		}
		other, err := rb.server.reopen(&journey.Run{Journal: rb.run.Journal}, e)
		if err != nil {
			return err
		}
		isOnly, units = false, except(units, other.guardedUnits())
	}
	files := rb.server.dropIns(units)
	if isOnly {
		// Drop-ins of a rollback whose journal entry somebody has removed are removed too: a mount that requires a guard
		// which does not exist is never made.
		if files, err = rb.server.installedDropIns(); err != nil {
			return err
		}
	}
	if err := rb.server.removeFiles(files); err != nil || !isOnly {
		return err
	}
	if rb.forgetGuard != nil {
		if err := rb.forgetGuard(ctx); err != nil {
			return err
		}
	}
	return rb.server.removeFiles(rb.server.sharedFiles(""))
}

// forgetGuardUnit has systemd forget what it has read of the guard.
func (rb *rollback) forgetGuardUnit(ctx context.Context) error {
	if err := rb.connect(ctx); err != nil {
		return err
	}
	return rb.systemd.Forget(ctx, guardUnit)
}

// removeFiles removes files, the last first.
func (s Server) removeFiles(files []guardFile) error {
	for _, f := range slices.Backward(files) {
		if err := s.removeFile(f); err != nil {
			return err
		}
	}
	return nil
}
