package rollback

import (
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/journey"
)

// Arguments are those of a rollback beside what is rolled back to, for every module that makes one.
type Arguments struct {
	Services      []string `mapstructure:"services" doc:"Units to stop before and to start again after; auto adds those that hold the volumes open."`
	Holders       string   `mapstructure:"holders" choices:"fail,stop" doc:"What to do with other processes that hold the volumes open: name them and fail, or end them."`
	WhenBusy      string   `mapstructure:"when_busy" choices:"fail,defer" doc:"What to do if a volume cannot be closed: fail, or merge at its next activation, for a root volume the next boot."`
	Wait          bool     `mapstructure:"wait" doc:"Wait until the merge is finished. The volumes are in use before."`
	Timeout       int      `mapstructure:"timeout" doc:"Seconds for everything but the merge itself, 1 to 86400."`
	Resnapshot    bool     `mapstructure:"resnapshot" doc:"Take the same set again, for rehearsals. For thick volumes the services wait until the merge is finished."`
	StartServices bool     `mapstructure:"start_services" doc:"Start the services again; false leaves them stopped for a look."`
}

// Defaults are the arguments where none is given.
func Defaults() Arguments {
	return Arguments{Holders: "fail", WhenBusy: "fail", Timeout: 600, StartServices: true}
}

// Validate says what is wrong with them.
func (a Arguments) Validate() error {
	if a.Timeout < 1 || a.Timeout > 86400 {
		return ansible.Bad("timeout", "is %d; it is 1 to 86400 seconds", a.Timeout)
	}
	return nil
}

// Request is the rollback they ask for, of a set that is still to be named.
func (a Arguments) Request() Request {
	return Request{
		Services: slices.DeleteFunc(slices.Clone(a.Services), func(s string) bool { return s == "auto" }),
		Auto:     slices.Contains(a.Services, "auto"), StopHolders: a.Holders == "stop", Defer: a.WhenBusy == "defer",
		Wait: a.Wait, Timeout: time.Duration(a.Timeout) * time.Second, Resnapshot: a.Resnapshot, StartServices: a.StartServices,
	}
}

// Limit is how long the journey of a rollback may take, unless it extends it.
func Limit(r Request) time.Duration { return journey.LockWait + 2*r.Timeout + 5*time.Minute }
