package rollback

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
)

// base is what every part of a rollback works with.
type base struct {
	Request   // empty while an interrupted rollback is settled
	server    Server
	run       *journey.Run // nil with Check
	commands  *command.Recorder
	lvm       *lvm.LVM
	systemd   *service.Systemd // nil early in a boot
	state     *State
	warnings  []string
	startedAt time.Time // when this run began, which may be later than the rollback
}

func (b *base) connect(ctx context.Context) (err error) {
	if b.systemd == nil {
		b.systemd, err = b.server.Systemd(ctx)
	}
	return err
}

func (b *base) close() {
	if b.systemd != nil {
		b.systemd.Close()
	}
}

// entry returns the journal entry of this rollback, or an empty one before the rollback is begun. While a restore with
// merge=true is under way, the run's current entry may be that of the restore; it is not returned.
func (b *base) entry() *journal.Entry {
	if b.run == nil || b.run.Entry() == nil || b.run.Entry().Kind != Kind {
		return &journal.Entry{}
	}
	return b.run.Entry()
}

// startPlan starts the units that were active when the plan was made. A unit that fails to start is an error.
func (b *base) startPlan(ctx context.Context, p service.Plan) error {
	failures, err := b.systemd.Start(ctx, p)
	errs := []error{err}
	for _, f := range failures {
		errs = append(errs, f)
	}
	return fault.All(errs...)
}

// rollback is a rollback that is under way or is being settled. It takes the steps; its parts do the work.
type rollback struct {
	*base
	plan    *planner
	steps   *stepRecorder
	survey  *survey
	guard   *bootGuard
	holds   *unitHolds
	volumes *volumes
	merges  *merges
	answers *answers
}

func (s Server) newRollback(run *journey.Run, req Request) *rollback {
	commands := command.NewRecorder(s.Sets.Runner)
	return newParts(&base{
		Request: req, server: s, run: run, commands: commands, lvm: s.LVM(commands), startedAt: time.Now(),
	})
}

// newParts returns the rollback with all its parts.
func newParts(b *base) *rollback {
	rb := &rollback{
		base: b, plan: &planner{b}, steps: &stepRecorder{base: b}, survey: &survey{base: b}, guard: &bootGuard{base: b},
		holds: &unitHolds{b}, answers: &answers{base: b},
	}
	rb.guard.forget = rb.guard.forgetUnit
	rb.volumes = &volumes{base: b, steps: rb.steps, holds: rb.holds, survey: rb.survey}
	rb.merges = &merges{
		base: b, steps: rb.steps, survey: rb.survey, volumes: rb.volumes,
		overlap: true, metadataDir: b.server.RuntimeDir + "/metadata", openLimit: closeLimit,
	}
	return rb
}
