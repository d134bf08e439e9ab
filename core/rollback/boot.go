package rollback

import (
	"context"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
)

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
	if err := rb.survey.awaitDisks(ctx); err != nil {
		return err
	}
	if err := rb.volumes.activate(ctx, rb.state.Members); err != nil {
		return err
	}
	if begun, err := rb.survey.hasBegun(ctx); !begun || err != nil {
		return err // settle undoes what has not begun, after the volumes are mounted
	}
	journalMember, err := rb.merges.waitingJournalMember(ctx)
	if err != nil {
		return err
	}
	if journalMember != nil {
		return rb.mergeAndReboot(ctx, journalMember)
	}
	defer rb.merges.awaitLvconvert()
	if err := rb.merges.begin(ctx); err != nil {
		return err
	}
	// With a fault the volumes are not mounted. Otherwise services could use data of different times.
	for _, f := range rb.state.notRolledBack() {
		return f
	}
	return nil
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
