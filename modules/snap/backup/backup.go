// Package backup is snap_backup backs a set of LVM snapshots up, and restores a backup into new snapshots while the server goes on
// working. It is an Ansible module, and the same by hand.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/run"
	"go.pcc.com/rewind/core/backup/schedule"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/restore"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/plugins/backends"
)

type args struct {
	Action        string       `mapstructure:"action" choices:"backup,restore,check,schedule,unschedule" doc:"backup: a set is taken, stored and removed; restore: a backup is written into a new set; check: is the repository usable, is the last backup readable, and how old is it; schedule: systemd makes the backup from now on, at the calendar's times; unschedule: it does so no more."`
	Volumes       []run.Volume `mapstructure:"volumes" doc:"What to back up: mount points, vg/lv, device paths, mappings as lvm_snapshot takes them; {path: /boot, snapshot: false} is read live. For a restore: some of what is in the backup; default all. For a check: what the last backup must have."`
	run.Arguments `mapstructure:",squash"`
	Name          string `mapstructure:"name" doc:"The set's name; default backup, or restore."`
	Keep          int    `mapstructure:"keep" doc:"How many complete backups of the same name, volumes and host are kept, this one among them; older ones are removed when it is known to be good. 0: all."`
	Size          string `mapstructure:"size" doc:"COW space of each thick snapshot, as lvm_snapshot takes it. A restore sizes by need and extends in time; what is not merged at once gets at least what a set gets."`
	FreezeTimeout int    `mapstructure:"freeze_timeout" doc:"Seconds that writes may wait while the set is taken, 1 to 600."`
	LockTimeout   int    `mapstructure:"lock_timeout" doc:"Seconds that a backup waits for another run on the same volume group, 0 to 86400; by default one that is scheduled waits for 6 hours."`
	Compare       string `mapstructure:"compare" choices:"recorded,content" doc:"content: every file is read."`
	Calendar      string `mapstructure:"calendar" doc:"When a scheduled backup is made, as systemd.time(7) has it: 02:00, Mon..Fri 22:30."`
	Spread        int    `mapstructure:"spread" doc:"Seconds by which a scheduled backup begins later at most, 0 to 86400; how much is each server's own."`
	RestoreID     string `mapstructure:"restore_id" doc:"Which backup, by its id or, of this host, the first 8 letters of it; latest is the complete one that was made last."`
	Merge         bool   `mapstructure:"merge" doc:"After a restore roll back to the set, with the arguments of lvm_merge that follow; false leaves the set for a look, and for lvm_merge."`
	Rollback      `mapstructure:",squash"`

	journey.Waiting `mapstructure:",squash"`
}

// Rollback are the arguments of the rollback after a restore: those of lvm_merge.
type Rollback = rollback.Arguments

// Module is the module.
func Module() ansible.Program {
	own := journey.Handlers{
		run.Kind: backends.BuiltIn.Handler(), run.KindQuery: backends.BuiltIn.Query(), restore.Kind: restore.Handler(backends.BuiltIn),
	}
	internal := rollback.Internal(own)
	internal["backend"] = func(_ context.Context, args []string) int { return backends.BuiltIn.Serve(args) }
	return ansible.Module[args]{
		Name:     "snap_backup",
		Summary:  "Backs a set of LVM snapshots up, and restores a backup while the server goes on working.",
		Defaults: defaults,
		Validate: validate,
		Run:      do,
		Print:    show,
		Examples: `  snap_backup action=backup volumes=/dat,/pccehr backend_options=path=/srv/backup  back two volumes up
  snap_backup action=backup volumes=/dat backend=restic backend_options=repository=/srv/restic,password_file=/root/restic.pw  with restic
  snap_backup volumes=/dat backend_options=path=/srv/backup detach=true    without waiting for its end
  snap_backup run=20260131t235959-123456-0a1b2c                            how far that run is, and what came of it
  snap_backup action=restore backend_options=path=/srv/backup --check      what would be written
  snap_backup action=restore backend_options=path=/srv/backup              into set "restore", for a look
  snap_backup action=restore backend_options=path=/srv/backup merge=true services=postgresql  and roll back to it
  snap_backup action=check backend_options=path=/srv/backup                how old is the last backup, and is it readable
  snap_backup action=schedule name=nightly calendar=02:00 volumes=/dat,/pccehr keep=14 backend_options=path=/srv/backup  every night
  snap_backup @/etc/rewind/nightly.json                                    the same at once
  snap_backup action=unschedule name=nightly                               not any more`,
		Internal: internal,
	}.Program()
}

// What says that a file has not changed.
const (
	compareRecorded = "recorded"
	compareContent  = "content"
)

func defaults() args {
	return args{
		Action: "backup", Arguments: run.Defaults(), FreezeTimeout: 60, LockTimeout: int(journey.LockWait.Seconds()), Compare: compareRecorded, RestoreID: run.Latest,
		Calendar: "02:00", Spread: 3600, Rollback: rollback.Defaults(),
	}
}

func validate(a args) error {
	if a.Run != "" {
		return a.Waiting.Validate()
	}
	wrong := []error{a.Arguments.Validate(), a.Rollback.Validate()}
	backs := a.Action == "backup" || a.Action == "schedule"
	if backs && len(a.Volumes) == 0 {
		wrong = append(wrong, ansible.Bad("volumes", "names nothing to back up: mount points such as /dat, or vg/lv"))
	}
	if err := snapset.CheckName(a.Name); a.Name != "" && err != nil {
		wrong = append(wrong, ansible.Bad("name", "%v", err))
	}
	wrong = append(wrong, snapset.CheckArguments(a.Size, a.Volumes, a.FreezeTimeout))
	if a.Keep < 0 {
		wrong = append(wrong, ansible.Bad("keep", "is %d; it is 1 or more, or 0 for all", a.Keep))
	}
	if a.RestoreID == "" || strings.ContainsAny(a.RestoreID, "/\x00\n") {
		wrong = append(wrong, ansible.Bad("restore_id", "%q is no id of a backup", a.RestoreID))
	}
	if a.Keep > 0 && !backs {
		wrong = append(wrong, ansible.Bad("keep", "goes with action=backup"))
	}
	if a.Compare == compareContent && a.Action == "check" {
		wrong = append(wrong, ansible.Bad("compare", "goes with action=backup and action=restore"))
	}
	if a.RestoreID != run.Latest && a.Action != "restore" {
		wrong = append(wrong, ansible.Bad("restore_id", "goes with action=restore"))
	}
	if a.Merge && a.Action != "restore" {
		wrong = append(wrong, ansible.Bad("merge", "goes with action=restore"))
	}
	if a.LockTimeout < 0 || a.LockTimeout > 86400 {
		wrong = append(wrong, ansible.Bad("lock_timeout", "is %d; it is 0 to 86400 seconds", a.LockTimeout))
	}
	if a.Spread < 0 || a.Spread > 86400 {
		wrong = append(wrong, ansible.Bad("spread", "is %d; it is 0 to 86400 seconds", a.Spread))
	}
	if !backs && a.LockTimeout != defaults().LockTimeout {
		wrong = append(wrong, ansible.Bad("lock_timeout", "goes with action=backup and action=schedule"))
	}
	if d := defaults(); a.Action != "schedule" && a.Calendar != d.Calendar {
		wrong = append(wrong, ansible.Bad("calendar", "goes with action=schedule"))
	} else if a.Action != "schedule" && a.Spread != d.Spread {
		wrong = append(wrong, ansible.Bad("spread", "goes with action=schedule"))
	}
	if a.Detach && a.Action != "backup" && a.Action != "restore" {
		wrong = append(wrong, ansible.Bad("detach", "goes with action=backup and action=restore"))
	}
	if !a.Merge { // who names services expects that they are stopped
		for _, name := range ansible.Differing(a.Rollback, rollback.Defaults()) {
			wrong = append(wrong, ansible.Bad(name, "goes with action=restore merge=true"))
		}
	}
	return fault.All(wrong...)
}

func do(ctx context.Context, c ansible.Call, a args) (ansible.Result, error) {
	if err := journey.Permitted(); err != nil {
		return ansible.Result{}, err
	}
	if a.Run != "" {
		return journey.Look(ctx, c, a.Run)
	}
	switch a.Action {
	case "schedule":
		return schedules(ctx, c, a)
	case "unschedule":
		return schedule.On(command.Local{}).Unset(ctx, or(a.Name, "backup"), c.Check)
	}
	tried := time.Now()
	call, err := request(c, a)
	var r ansible.Result
	if err == nil {
		r, err = journey.Show(ctx, c, a.Waiting, call)
	}
	if backup, ok := call.Request.(run.Request); ok && call.Kind == run.Kind && err != nil && !c.Check {
		if unwritten := run.Missed(backup, tried, err); unwritten != nil {
			r.Warnings = append(r.Warnings, "that this backup failed cannot be written down: "+unwritten.Error())
		}
	}
	return r, err
}

// schedules has the backup made from now on. It is planned once before, so that what would go wrong at night is said now.
func schedules(ctx context.Context, c ansible.Call, a args) (r ansible.Result, err error) {
	s := schedule.Schedule{
		Name: or(a.Name, "backup"), Calendar: a.Calendar, Spread: time.Duration(a.Spread) * time.Second, Arguments: maps.Clone(c.Given),
	}
	if s.Arguments["lock_timeout"] == nil {
		s.Arguments["lock_timeout"] = int(scheduledWait.Seconds())
	}
	commands := command.NewRecorder(command.Local{})
	systemd := schedule.On(commands)
	if err := systemd.Check(ctx, s); err != nil {
		return r, err
	}
	if s.Program, err = journey.ProgramPath(); err != nil {
		return r, err
	}
	r, err = systemd.Set(ctx, s, true)
	if err == nil && r.Changed {
		var warnings []string
		if warnings, err = plan(ctx, c, a); err == nil && !c.Check {
			r, err = set(ctx, systemd, s)
		}
		r.Warnings = append(warnings, r.Warnings...)
	}
	r.Commands = commands.Commands()
	return r, err
}

// scheduledWait is how long a scheduled backup waits for another one on its volume group: two that are due in the same
// hour are made one after the other.
const scheduledWait = 6 * time.Hour

func set(ctx context.Context, systemd schedule.Places, s schedule.Schedule) (r ansible.Result, err error) {
	if s.Program, err = journey.Install(); err != nil {
		return r, err
	}
	return systemd.Set(ctx, s, false)
}

// plan says what would go wrong with such a backup. While a backup is under way its set and its repository are in use,
// which says nothing of the next.
func plan(ctx context.Context, c ansible.Call, a args) (warnings []string, err error) {
	c.Check, c.Patience = true, 0
	call, err := request(c, a)
	var r ansible.Result
	if err == nil {
		r, err = journey.Show(ctx, c, a.Waiting, call)
	}
	if err == nil {
		return r.Warnings, nil
	}
	current, unknown := journey.Current(ctx)
	mine := func(s journey.Status) bool { return s.Kind == run.Kind }
	inUse := errors.Is(err, fault.Exists) || errors.Is(err, fault.Locked) || errors.Is(err, fault.RepositoryLocked)
	if unknown == nil && inUse && slices.ContainsFunc(current, mine) {
		return []string{"it was not planned, because a backup is under way: " + err.Error()}, nil
	}
	return nil, fault.New(fault.Of(err).Code, "such a backup would fail: %w", err)
}

// request is the journey that is asked for.
func request(c ansible.Call, a args) (call journey.Call, err error) {
	use, err := a.Arguments.Use()
	if err != nil {
		return call, err
	}
	freeze := time.Duration(a.FreezeTimeout) * time.Second
	call.Limit = run.Limit(use)
	switch a.Action {
	case "check":
		call.Kind, call.Title = run.KindQuery, "check the repository of "+use.Backend
		call.Request = run.Request{Query: run.Check, Volumes: a.Volumes, Use: use}
	case "restore":
		r := restore.Request{
			Volumes: a.Volumes, Set: or(a.Name, "restore"), Size: a.Size, ID: a.RestoreID, FreezeTimeout: freeze, Use: use,
			ReadAll: a.Compare == compareContent, Merge: a.Merge, Rollback: a.Rollback.Request(), Check: c.Check,
		}
		r.Rollback.Set = r.Set
		call.Kind, call.Title, call.Set, call.Request = restore.Kind, "restore backup "+r.ID+" into set "+r.Set, r.Set, r
		call.Limit += rollback.Limit(r.Rollback)
	default:
		r := run.Request{
			Volumes: a.Volumes, Set: or(a.Name, "backup"), Size: a.Size, FreezeTimeout: freeze, Keep: a.Keep, Use: use, Check: c.Check,
			ReadAll: a.Compare == compareContent, LockTimeout: time.Duration(a.LockTimeout) * time.Second,
		}
		call.Limit += r.LockTimeout
		call.Kind, call.Title, call.Set, call.Request = run.Kind, "back up with "+use.Backend, r.Set, r
	}
	call.Secret, err = a.Arguments.Secrets(c)
	return call, err
}

func or(name, otherwise string) string {
	if name != "" {
		return name
	}
	return otherwise
}

func show(w io.Writer, r ansible.Result) {
	fmt.Fprintln(w, r.Msg)
	var data struct {
		Restored []restore.Volume `json:"restored"`
	}
	if r.Into(&data) != nil {
		return
	}
	for _, v := range data.Restored {
		fmt.Fprintf(w, "  %-20s", v.Path)
		if v.Snapshot == "" {
			fmt.Fprintf(w, " %s to %s would be written\n", ansible.Bytes(v.Least), ansible.Bytes(v.Most))
			continue
		}
		fmt.Fprintf(w, " %d created, %d changed, %d deleted; %s written, %s of COW used\n", v.Created, v.Changed, v.Deleted,
			ansible.Bytes(v.Written), ansible.Bytes(v.Used))
	}
}
