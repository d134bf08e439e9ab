package rollback

import (
	"context"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
)

// disksLimit is how long the guard waits at boot for the disks of a volume group.
const disksLimit = 90 * time.Second

// atBoot calls a function of the boot with the journal.
func (s Server) atBoot(ctx context.Context, f func(context.Context, *journal.Journal) error) error {
	j, err := journal.Open(s.JournalDir)
	if err != nil {
		return err
	}
	return f(ctx, j)
}

// GuardBoot is the command of the boot guard, which runs before the members are mounted. For each rollback of which a
// merge has begun, it has every member merge. If it fails, the members are not mounted, because they hold data of
// different times.
func (s Server) GuardBoot(ctx context.Context, j *journal.Journal) error {
	entries, err := j.Unfinished()
	errs := []error{err}
	for _, e := range entries {
		if e.Kind != Kind || directionOf(e.Step) == backward {
			continue
		}
		if j.ThisBoot(e) {
			continue // a daemon-reload during the rollback started the guard, not a boot
		}
		rb, err := s.reopen(&journey.Run{Journal: j}, e)
		if err == nil {
			err = rb.mergeAtBoot(ctx)
		}
		errs = append(errs, err)
	}
	return fault.All(errs...)
}

// mergeAtBoot has every member merge, if a merge has begun.
func (rb *rollback) mergeAtBoot(ctx context.Context) error {
	if err := rb.awaitDisks(ctx); err != nil {
		return err
	}
	if err := rb.lvm.Activate(ctx, originNames(rb.state.Members)...); err != nil {
		return err
	}
	if begun, err := rb.hasBegun(ctx); !begun || err != nil {
		return err // settle undoes what has not begun, after the volumes are mounted
	}
	journalMember, err := rb.waitingJournalMember(ctx)
	if err != nil {
		return err
	}
	if journalMember != nil {
		return rb.mergeAndReboot(ctx, journalMember)
	}
	defer rb.awaitLvconvert()
	if err := rb.merge(ctx); err != nil {
		return err
	}
	// With a fault the volumes are not mounted. Otherwise services could use data of different times.
	for _, f := range rb.notRolledBack() {
		return f
	}
	return nil
}

// awaitDisks waits until LVM finds the volume groups of all members, with all their disks (timeout).
func (rb *rollback) awaitDisks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, disksLimit)
	defer cancel()
	for {
		report, err := rb.lvm.Report(ctx)
		if err != nil {
			return err
		}
		var incomplete []string
		for _, group := range rb.state.groups() {
			if g, ok := report.Group(group); !ok || g.Partial {
				incomplete = append(incomplete, group)
			}
		}
		if len(incomplete) == 0 {
			return nil
		}
		select {
		case <-time.After(statusInterval):
		case <-ctx.Done():
			return fault.New(fault.Timeout, "volume group %s did not appear within %s; "+
				"its volumes are not mounted, because their rollback is not finished",
				strings.Join(incomplete, ", "), disksLimit).
				WithHint("bring its disks back and boot again, or run: systemctl start rewind-guard, then mount -a")
		}
	}
}

// FinishAfterBoot waits for the merges that go on after a boot, so that the guard is removed when they are finished.
func (s Server) FinishAfterBoot(ctx context.Context, j *journal.Journal) error {
	entries, err := j.Unfinished()
	errs := []error{err}
	for _, e := range entries {
		if e.Kind != Kind || e.Step != StepStarted {
			continue
		}
		rb, err := s.reopen(&journey.Run{Journal: j}, e)
		if err == nil {
			err = rb.finish(ctx)
		}
		errs = append(errs, err)
	}
	return fault.All(errs...)
}
