// Package snapshot is the module lvm_snapshot, which takes, extends, mounts and removes a named set of LVM snapshots.
// It is called by Ansible or by hand.
package snapshot

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

type args struct {
	Volumes          []snapset.Volume `mapstructure:"volumes" doc:"What to take: mount points (/dat), vg/lv, device paths, or mappings of vg, lv, size, mountpoint, options. Not needed for a set that exists."`
	Name             string           `mapstructure:"name" doc:"The set's name; the snapshot of vg00/dat in set snap is vg00/dat_snap."`
	State            string           `mapstructure:"state" choices:"present,absent,mounted,unmounted" doc:"What the set should be."`
	Size             string           `mapstructure:"size" doc:"COW space of each thick snapshot: 10g, 512m (a number alone is MiB), 20%ORIGIN, 30%FREE, 5%VG, 50%USED; never more than the volume can need. A larger size extends a set that exists. By default it depends on the free space. Thin snapshots have none."`
	Consistency      string           `mapstructure:"consistency" choices:"set,volume" doc:"set: all volumes at one instant, or fail; volume: each volume by itself."`
	FreezeTimeout    int              `mapstructure:"freeze_timeout" doc:"Seconds that writes may wait, 1 to 600. At the limit the writes go on, and no set is taken."`
	OnInvalid        string           `mapstructure:"on_invalid" choices:"fail,replace" doc:"What to do with an overflowed set: fail, or replace it by a new set of what the volumes hold now. A set that was filled with a backup is never replaced."`
	Mountpoint       string           `mapstructure:"mountpoint" doc:"For state=mounted: the mount point of a set with one volume, or else the directory below which each volume gets a mount point. By default below /run/rewind/mounts."`
	MountpointCreate bool             `mapstructure:"mountpoint_create" doc:"Make mount points that do not exist."`
	Options          string           `mapstructure:"options" doc:"Mount options in addition to ro, noatime, and for XFS nouuid; rw replaces ro."`
	PostgreSQL       string           `mapstructure:"postgresql" choices:"auto,none" doc:"auto looks for PostgreSQL clusters that run, and refuses a set that has a part of one and lacks another, such as its WAL on a volume of its own. none does not look."`
	journey.Waiting  `mapstructure:",squash"`
}

// Module returns the program lvm_snapshot.
func Module() ansible.Program { return module().Program() }

func module() ansible.Module[args] {
	return ansible.Module[args]{
		Name:    "lvm_snapshot",
		Summary: "Takes, extends, mounts and removes a named set of LVM snapshots of one instant.",
		Defaults: func() args {
			return args{
				Name: "snap", State: snapset.Present, Consistency: "set", FreezeTimeout: 60, OnInvalid: "fail", PostgreSQL: "auto",
				MountpointCreate: true,
			}
		},
		Validate: validate,
		Run:      run,
		Print:    printResult,
		Examples: `  lvm_snapshot volumes=/dat,/pccehr                 take set "snap"
  lvm_snapshot volumes=/dat,/pccehr --check --diff  say what that would do
  lvm_snapshot name=before-upgrade volumes=vg00/dat size=10g  take another, or extend it to 10 GiB of COW space
  lvm_snapshot state=mounted mountpoint=/mnt/snap   mount set "snap", read-only
  lvm_snapshot state=absent                         remove it`,
		Internal: rollback.HiddenCommands(nil),
	}
}

func validate(a args) error {
	if a.Run != "" {
		return a.Waiting.Validate()
	}
	var wrong []error
	if snapset.CheckName(a.Name) != nil {
		wrong = append(wrong, ansible.Bad("name", "%v", snapset.CheckName(a.Name)))
	}
	wrong = append(wrong, snapset.CheckArguments(a.Size, a.Volumes, a.FreezeTimeout))
	if a.Mountpoint != "" && !strings.HasPrefix(a.Mountpoint, "/") {
		wrong = append(wrong, ansible.Bad("mountpoint", "%q is not an absolute path", a.Mountpoint))
	}
	if a.State != snapset.Mounted {
		for name, value := range map[string]string{"mountpoint": a.Mountpoint, "options": a.Options} {
			if value != "" {
				wrong = append(wrong, ansible.BadFor("state", name, "goes with state=mounted"))
			}
		}
	}
	return fault.All(wrong...)
}

func run(ctx context.Context, c ansible.Call, a args) (ansible.Result, error) {
	if err := journey.RequireHostAndRoot(); err != nil {
		return ansible.Result{}, err
	}
	if a.Run != "" {
		return journey.Look(ctx, c, a.Run)
	}
	req := snapset.Request{
		State: a.State, Set: a.Name, Volumes: a.Volumes, Size: a.Size, Each: a.Consistency == "volume",
		FreezeTimeout: time.Duration(a.FreezeTimeout) * time.Second, Replace: a.OnInvalid == "replace",
		Mount: snapset.MountOptions{Point: a.Mountpoint, Create: a.MountpointCreate, Options: a.Options},
		Check: c.Check, NoPostgreSQL: a.PostgreSQL == "none",
	}
	if c.Check {
		if err := journey.CheckProgram(); err != nil {
			return ansible.Result{}, err
		}
		result, err := snapset.Apply(ctx, nil, command.Local{}, req)
		return result.ForAnsible(), err
	}
	return journey.Show(ctx, c, a.Waiting, journey.Call{
		Kind: snapset.Kind, Title: fmt.Sprintf("set %s: %s", a.Name, a.State), Set: req.Set, Request: req,
		Limit: req.Limit(),
	})
}

func printResult(w io.Writer, r ansible.Result) {
	fmt.Fprintln(w, r.Msg)
	var data struct {
		Snapshots []snapset.Taken `json:"snapshots"`
	}
	if r.Into(&data) != nil {
		return
	}
	for _, s := range data.Snapshots {
		fmt.Fprintf(w, "  %-28s of %-20s", s.Snapshot, s.Volume)
		if s.Size > 0 {
			fmt.Fprintf(w, " %10s COW", ansible.Bytes(s.Size))
		}
		if s.Pause != nil {
			fmt.Fprintf(w, "  writes waited %.0f ms (%s)", *s.Pause, s.Method)
		}
		if s.Mountpoint != "" {
			fmt.Fprintf(w, "  on %s", s.Mountpoint)
		}
		fmt.Fprintln(w)
	}
}
