// Package merge is the module lvm_merge, which rolls a server back to a set of LVM snapshots. It is called by Ansible
// or by hand.
package merge

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

type args struct {
	Name               string   `mapstructure:"name" doc:"The set to roll back to; default snap."`
	Snapshots          []string `mapstructure:"snapshots" doc:"Instead of a set: the snapshots to roll back to, as vg/lv; they may have been made by hand."`
	rollback.Arguments `mapstructure:",squash"`
	journey.Waiting    `mapstructure:",squash"`
}

// Module returns the program lvm_merge.
func Module() ansible.Program { return module().Program() }

func module() ansible.Module[args] {
	return ansible.Module[args]{
		Name:    "lvm_merge",
		Summary: "Rolls volumes back to a set of LVM snapshots: all of them, or none.",
		Defaults: func() args {
			return args{Arguments: rollback.Defaults()}
		},
		Validate: validate,
		Run:      run,
		Print:    printResult,
		Examples: `  lvm_merge services=postgresql --check --diff   what would be thrown away
  lvm_merge services=postgresql                  roll back to set "snap"
  lvm_merge name=before-upgrade services=auto wait=true  stop whatever holds the volumes open, and wait for the merge
  lvm_merge snapshots=vg00/dat_snap,vg00/pccehr_snap services=postgresql,pccehr  roll back to snapshots made by hand`,
		Internal: rollback.HiddenCommands(nil),
	}
}

func validate(a args) error {
	if a.Run != "" {
		return a.Waiting.Validate()
	}
	var wrong []error
	if a.Name != "" && len(a.Snapshots) > 0 {
		wrong = append(wrong, ansible.Bad("snapshots", "cannot be given beside name"))
	}
	if a.Resnapshot && len(a.Snapshots) > 0 {
		wrong = append(wrong, ansible.Bad("resnapshot",
			"needs the name of a set; snapshots that were made by hand have none"))
	}
	if err := snapset.CheckName(a.Name); a.Name != "" && err != nil {
		wrong = append(wrong, ansible.Bad("name", "%v", err))
	}
	for _, s := range a.Snapshots {
		if _, _, err := lvm.ParseName(s); err != nil {
			wrong = append(wrong, ansible.Bad("snapshots", "%v", err))
		}
	}
	return fault.All(append(wrong, a.Arguments.Validate())...)
}

func run(ctx context.Context, c ansible.Call, a args) (ansible.Result, error) {
	if err := journey.RequireHostAndRoot(); err != nil {
		return ansible.Result{}, err
	}
	if err := os.Chdir("/"); err != nil { // the caller's directory may be on a volume, which this program would hold open
		return ansible.Result{}, fault.New(fault.Internal, "go to /: %w", err)
	}
	if a.Run != "" {
		return journey.Look(ctx, c, a.Run)
	}
	req := request(c, a)
	if c.Check {
		if err := journey.CheckProgram(); err != nil {
			return ansible.Result{}, err
		}
		result, err := rollback.Apply(ctx, nil, req)
		return result.ForAnsible(), err
	}
	subject := req.Set
	if subject == "" {
		subject = strings.Join(req.Snapshots, ", ")
	}
	return journey.Show(ctx, c, a.Waiting, journey.Call{
		Kind: rollback.Kind, Title: "roll back to " + subject, Set: req.Set, Request: req, Limit: rollback.Limit(req),
	})
}

func request(c ansible.Call, a args) rollback.Request {
	req := a.Arguments.Request()
	req.Set, req.Snapshots, req.Check, req.Diff = a.Name, a.Snapshots, c.Check, c.Diff
	if req.Set == "" && len(req.Snapshots) == 0 {
		req.Set = "snap"
	}
	return req
}

func printResult(w io.Writer, r ansible.Result) {
	fmt.Fprintln(w, r.Msg)
	var data struct {
		Volumes []rollback.Volume   `json:"volumes"`
		End     []filesystem.Holder `json:"end"`
	}
	if r.Into(&data) != nil {
		return
	}
	for _, h := range data.End {
		fmt.Fprintf(w, "  would end %s\n", h)
	}
	for _, v := range data.Volumes {
		fmt.Fprintf(w, "  %-20s from %-28s %s", v.Volume, v.Snapshot, v.State)
		if v.State == "merging" {
			fmt.Fprintf(w, " %.0f%%", v.Percent)
		}
		fmt.Fprintf(w, ", %s\n", discardedText(v))
	}
}

// discardedText says how much of a volume the rollback discards.
func discardedText(v rollback.Volume) string {
	switch {
	case v.Bytes == nil:
		return "how much differs and is replaced is not known of a thin volume; --check --diff names the files"
	case v.State == "waiting": // with --check: the volume is in use
		return ansible.Bytes(*v.Bytes) + " differ so far, without what is still in memory"
	}
	return "at most " + ansible.Bytes(*v.Bytes) + " differ and are replaced"
}
