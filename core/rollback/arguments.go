package rollback

import (
	"context"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// Arguments are the arguments of a rollback, except for the set or the snapshots to roll back to. Every module that
// makes rollbacks has them.
type Arguments struct {
	Services      []string `mapstructure:"services" doc:"Units to stop before and to start again after, in the order in which they start, such as postgresql,pccehr; they stop in the reverse one, and what they say themselves (After=) comes first. auto adds those that hold the volumes open."`
	Holders       string   `mapstructure:"holders" choices:"fail,stop" doc:"What to do with other processes that hold the volumes open: fail names them; stop also stops the units of such, as auto does, and ends the others: SIGTERM, after 10 s SIGKILL. Those are not started again."`
	WhenBusy      string   `mapstructure:"when_busy" choices:"fail,defer" doc:"What to do if a volume cannot be closed: fail, or merge at its next activation, for a root volume the next boot. Nothing is stopped then, what is written until that boot is lost at it, and it cannot be taken back."`
	Wait          bool     `mapstructure:"wait" doc:"Wait until the merge is finished. The volumes are in use before."`
	Timeout       int      `mapstructure:"timeout" doc:"Seconds until the merge begins, 1 to 86400; half of them for writing out what is in memory, before the first service stops. To begin it there are 10 minutes, to start the services or to put all back at least 10."`
	Resnapshot    bool     `mapstructure:"resnapshot" doc:"Take the same set again, for rehearsals. For thick volumes the services wait until the merge is finished."`
	PostgreSQL    string   `mapstructure:"postgresql" choices:"auto,none" doc:"auto looks for PostgreSQL clusters that run: one that has files on the volumes and on others, too, is refused, and one that archives WAL or has standbys is warned of. none does not look."`
	StartServices bool     `mapstructure:"start_services" doc:"Start the services again; false leaves them stopped for a look."`
}

// Defaults returns the arguments with the values that they have if the user gives none.
func Defaults() Arguments {
	return Arguments{Holders: "fail", WhenBusy: "fail", PostgreSQL: "auto", Timeout: 600, StartServices: true}
}

// Validate refuses a timeout that is not 1 to 86400 seconds (bad_arguments).
func (a Arguments) Validate() error {
	if a.Timeout < 1 || a.Timeout > 86400 {
		return ansible.Bad("timeout", "is %d; it is 1 to 86400 seconds", a.Timeout)
	}
	return nil
}

// Request returns the request for the rollback that the arguments ask for. The caller must add the set or the
// snapshots.
func (a Arguments) Request() Request {
	return Request{
		Services: slices.DeleteFunc(slices.Clone(a.Services), func(s string) bool { return s == "auto" }),
		Auto:     slices.Contains(a.Services, "auto"), StopHolders: a.Holders == "stop", Defer: a.WhenBusy == "defer",
		Wait: a.Wait, Timeout: time.Duration(a.Timeout) * time.Second,
		Resnapshot: a.Resnapshot, StartServices: a.StartServices, NoPostgreSQL: a.PostgreSQL == "none",
	}
}

// CheckVolumes says what would keep a rollback of these volumes from beginning, for a caller whose rollback follows
// hours later. It changes nothing.
//
// Faults: those of service.Systemd.Plan for units that cannot be stopped; busy if something that would not be stopped
// holds a volume open; unsupported for a volume that the boot guard needs; those of snapset.View.CheckClusters.
func CheckVolumes(ctx context.Context, r Request, targets []snapset.Target) error {
	rb := thisServer().newRollback(nil, r)
	defer rb.close()
	if err := rb.connect(ctx); err != nil {
		return err
	}
	mounts, err := rb.server.Host.Mounts()
	if err != nil {
		return err
	}
	rb.state = &State{}
	f := &findings{selection: &selection{view: rb.server.Sets.View(nil, mounts)}, targets: targets}
	if err := rb.plan.planClusters(f); err != nil {
		return err
	}
	if err := rb.plan.planMounts(f); err != nil {
		return err
	}
	return rb.plan.planServices(ctx, f)
}

// Limit returns how long the run of a rollback may take. A run whose merges make progress extends the limit.
func Limit(r Request) time.Duration { return journey.LockWait + 2*r.Timeout + 5*time.Minute }
