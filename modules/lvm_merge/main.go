// Command lvm_merge rolls a server back to a set of LVM snapshots. It is an Ansible module, and the same by hand.
package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

type args struct {
	Name          string   `mapstructure:"name" doc:"The set to roll back to; default snap."`
	Snapshots     []string `mapstructure:"snapshots" doc:"Instead of a set: snapshots, vg/lv, also such as were made by hand."`
	Services      []string `mapstructure:"services" doc:"Units to stop before and to start again after; auto adds those that hold the volumes open."`
	Holders       string   `mapstructure:"holders" choices:"fail,stop" doc:"What to do with other processes that hold the volumes open: name them and fail, or end them."`
	WhenBusy      string   `mapstructure:"when_busy" choices:"fail,defer" doc:"What to do if a volume cannot be closed: fail, or merge at its next activation, for a root volume the next boot."`
	Wait          bool     `mapstructure:"wait" doc:"Wait until the merge is finished. The volumes are in use before."`
	Timeout       int      `mapstructure:"timeout" doc:"Seconds for everything but the merge itself, 1 to 86400."`
	Resnapshot    bool     `mapstructure:"resnapshot" doc:"Take the same set again, for rehearsals. For thick volumes the services wait until the merge is finished."`
	StartServices bool     `mapstructure:"start_services" doc:"Start the services again; false leaves them stopped for a look."`
}

func main() {
	ansible.Module[args]{
		Name:    "lvm_merge",
		Summary: "Rolls volumes back to a set of LVM snapshots: all of them, or none.",
		Defaults: func() args {
			return args{Holders: "fail", WhenBusy: "fail", Timeout: 600, StartServices: true}
		},
		Validate: validate,
		Run:      run,
		Print:    show,
		Examples: `  lvm_merge services=postgresql --check --diff   what would be thrown away
  lvm_merge services=postgresql                  roll back to set "snap"
  lvm_merge name=before-upgrade services=auto wait=true
  lvm_merge snapshots=vg00/dat_snap,vg00/pccehr_snap services=pccehr,postgresql`,
		Internal: rollback.Internal(),
	}.Main()
}

func validate(a args) error {
	var wrong []error
	if a.Name != "" && len(a.Snapshots) > 0 {
		wrong = append(wrong, ansible.Bad("snapshots", "cannot be given beside name"))
	}
	if err := snapset.CheckName(a.Name); a.Name != "" && err != nil {
		wrong = append(wrong, ansible.Bad("name", "%v", err))
	}
	for _, s := range a.Snapshots {
		if _, _, err := lvm.ParseName(s); err != nil {
			wrong = append(wrong, ansible.Bad("snapshots", "%v", err))
		}
	}
	if a.Timeout < 1 || a.Timeout > 86400 {
		wrong = append(wrong, ansible.Bad("timeout", "is %d; it is 1 to 86400 seconds", a.Timeout))
	}
	return fault.All(wrong...)
}

func run(ctx context.Context, c ansible.Call, a args) (ansible.Result, error) {
	if name, inside := filesystem.InContainer(); inside {
		return ansible.Result{}, fault.New(fault.Unsupported, "this is a container (%s): its volumes belong to its host", name).
			WithHint("run it on the host")
	}
	req := request(c, a)
	if c.Check {
		return rollback.Apply(ctx, nil, req)
	}
	bar := ansible.Bar(c.Progress, c.Terminal)
	defer bar.Done()
	what := req.Set
	if what == "" {
		what = strings.Join(req.Snapshots, ", ")
	}
	return journey.Make(ctx, journey.Call{
		Kind: rollback.Kind, Title: "roll back to " + what, Request: req, Limit: journey.LockWait + 2*req.Timeout + 5*time.Minute,
		Notice: func(p journey.Progress) {
			if c.Hand {
				bar.Show(p.Label, p.Percent, 0)
			}
		},
	})
}

func request(c ansible.Call, a args) rollback.Request {
	req := rollback.Request{
		Set: a.Name, Snapshots: a.Snapshots,
		Services: slices.DeleteFunc(slices.Clone(a.Services), func(s string) bool { return s == "auto" }),
		Auto:     slices.Contains(a.Services, "auto"), StopHolders: a.Holders == "stop", Defer: a.WhenBusy == "defer",
		Wait: a.Wait, Timeout: time.Duration(a.Timeout) * time.Second, Resnapshot: a.Resnapshot, StartServices: a.StartServices,
		Check: c.Check, Diff: c.Diff,
	}
	if req.Set == "" && len(req.Snapshots) == 0 {
		req.Set = "snap"
	}
	return req
}

func show(w io.Writer, r ansible.Result) {
	fmt.Fprintln(w, r.Msg)
	var data struct {
		Volumes []rollback.Volume `json:"volumes"`
	}
	if r.Into(&data) != nil {
		return
	}
	for _, v := range data.Volumes {
		fmt.Fprintf(w, "  %-20s from %-28s %s", v.Volume, v.Snapshot, v.State)
		if v.State == "merging" {
			fmt.Fprintf(w, " %.0f%%", v.Percent)
		}
		fmt.Fprintf(w, ", %s written since are gone\n", ansible.Bytes(v.Bytes))
	}
}
