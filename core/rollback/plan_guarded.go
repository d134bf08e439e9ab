package rollback

import (
	"context"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// findGuardedUnits finds what else must not start before the guard. The mounts alone are not enough: systemd checks a
// file system before it mounts it, a mount with the option nofail delays no service, and a volume without a file system
// has no mount. Therefore the file system checks, and the services that this rollback stops, wait for the guard too.
func (p *planner) findGuardedUnits(ctx context.Context, f *findings) error {
	checks, err := p.systemd.FileSystemChecks(ctx, p.state.mountUnits())
	if err != nil {
		return err
	}
	afterMounts, beforeMounts, err := p.systemd.AfterMounts(ctx, p.state.Services.Stop)
	if err != nil {
		return err
	}
	p.state.Guarded = append(checks, afterMounts...)
	for _, unit := range beforeMounts {
		p.warnings = append(p.warnings, unit+
			" may start at boot before file systems are mounted (DefaultDependencies=no): "+
			"should the power fail during the rollback, it does not wait until all volumes are rolled back")
	}
	if err := p.warnOfScripts(ctx); err != nil {
		return err
	}
	return p.checkGuarded(f)
}

// warnOfScripts warns of mounts for which no unit exists at the next boot: what made them, such as a script, does not
// wait for the guard. The rollback itself makes these mounts again, also after a power cut.
func (p *planner) warnOfScripts(ctx context.Context) error {
	for _, point := range mountPoints(p.state.Mounts) {
		if point == "/" || slices.Contains(p.state.Listed, point) {
			continue
		}
		isGone, err := p.systemd.GoneAtBoot(ctx, service.MountUnit(point))
		if err != nil {
			return err
		}
		if isGone {
			p.warnings = append(p.warnings, point+" is in neither fstab nor a unit: "+
				"should the power fail during the rollback, "+
				"the rollback mounts it again, but what else mounts it at boot, such as a script, does not wait for the merge; "+
				"add it to fstab, or name the unit that mounts it in services")
		}
	}
	return nil
}

// checkGuarded refuses members that nothing would keep from being used at boot before they are merged, because they
// have neither a mount nor a known service (unsupported).
func (p *planner) checkGuarded(f *findings) error {
	if usesVolumes(p.state.Services.Stop) {
		return nil
	}
	fstab, err := p.server.Host.Fstab()
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
func (p *planner) checkBootOrder(t *snapset.Target, journalDir, neededPath string) error {
	programDir, err := journey.ProgramDir()
	if err != nil {
		return err
	}
	reason := ""
	for _, m := range mountsToRestore(t, p.StopHolders) {
		for _, dir := range guardNeeds(journey.StateDir, programDir) {
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
