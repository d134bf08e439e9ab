// Package backup is the module snap_backup, which backs a set of LVM snapshots up, and restores a backup into new
// snapshots while the server goes on working. It is called by Ansible or by hand.
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
	"go.pcc.com/rewind/core/backup/access"
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
	Action           string          `mapstructure:"action" choices:"backup,restore,check,schedule,unschedule" doc:"backup: take a set, store it and remove it; restore: write a backup into a new set; check: say whether the repository is usable, whether the last backup is readable, and how old it is; schedule: have systemd make the backup from now on, at the times of calendar; unschedule: end that."`
	Volumes          []access.Volume `mapstructure:"volumes" doc:"What to back up: mount points, vg/lv, device paths, mappings as lvm_snapshot takes them; {path: /boot, snapshot: false} is read live, without a snapshot. For a restore: which volumes of the backup; default all. For a check: which volumes the last backup must have."`
	access.Arguments `mapstructure:",squash"`
	Name             string `mapstructure:"name" doc:"The set's name; default backup, or restore."`
	Keep             int    `mapstructure:"keep" doc:"How many complete backups of the same name, volumes and host to keep, including this one. Older ones are removed once this one is known to be good. 0: keep all."`
	Size             string `mapstructure:"size" doc:"COW space of each thick snapshot, written as for lvm_snapshot. By default a restore gives each snapshot as much as it is going to need, and without merge=true at least as much as lvm_snapshot would. It extends the snapshots before they fill."`
	FreezeTimeout    int    `mapstructure:"freeze_timeout" doc:"Seconds that writes may wait while the set is taken, 1 to 600."`
	LockTimeout      int    `mapstructure:"lock_timeout" doc:"Seconds that a backup waits for other runs on the same volume group or in the same place, 0 to 86400; a scheduled backup waits for 6 hours by default."`
	Compare          string `mapstructure:"compare" choices:"recorded,content" doc:"How to find out whether a file has changed. recorded: by its inode number, size, mtime and ctime, which were recorded at the backup; content: every file is read."`
	Calendar         string `mapstructure:"calendar" doc:"When a scheduled backup is made, as in systemd.time(7): 04:00, Mon..Fri 22:30. A time that the clock skips when daylight-saving time begins, often 02:00, is one night without a backup."`
	Spread           int    `mapstructure:"spread" doc:"By how many seconds at most a scheduled backup begins later than calendar says, 0 to 86400. Each server has a delay of its own, which stays the same."`
	RestoreID        string `mapstructure:"restore_id" doc:"The backup to restore: its id; for a backup of this host, 8 letters at the beginning of the id are enough. latest is the last complete backup."`
	Merge            bool   `mapstructure:"merge" doc:"After a restore roll back to the new set, with the arguments of lvm_merge below. false leaves the set as it is, so that it can be looked at first; lvm_merge rolls back to it later."`
	Rollback         `mapstructure:",squash"`

	journey.Waiting `mapstructure:",squash"`
}

// Rollback has the arguments of the rollback after a restore. They are the same as those of lvm_merge.
type Rollback = rollback.Arguments

// Module returns the program snap_backup.
func Module() ansible.Program { return module().Program() }

func module() ansible.Module[args] {
	handlers := journey.Handlers{
		run.Kind: run.Handler(backends.BuiltIn), run.KindQuery: run.QueryHandler(backends.BuiltIn),
		restore.Kind: restore.Handler(backends.BuiltIn),
	}
	internal := rollback.HiddenCommands(handlers)
	internal["backend"] = func(_ context.Context, args []string) int { return backends.BuiltIn.Serve(args) }
	return ansible.Module[args]{
		Name:     "snap_backup",
		Summary:  "Backs a set of LVM snapshots up, and restores a backup while the server goes on working.",
		Defaults: defaults,
		Validate: validate,
		Run:      execute,
		Print:    printResult,
		Examples: `  snap_backup action=backup volumes=/dat,/pccehr backend_options=path=/srv/backup  back two volumes up
  snap_backup action=backup volumes=/dat backend=restic ` +
			`backend_options=repository=/srv/restic,password_file=/root/restic.pw  with restic
  snap_backup volumes=/dat backend_options=path=/srv/backup detach=true    without waiting for its end
  snap_backup run=20260131t235959-123456-0a1b2c                            how far that run is, and what came of it
  snap_backup action=restore backend_options=path=/srv/backup --check      what would be written
  snap_backup action=restore backend_options=path=/srv/backup              into set "restore", to look at it
  snap_backup action=restore backend_options=path=/srv/backup merge=true services=postgresql  and roll back to it
  snap_backup action=check backend_options=path=/srv/backup                is the last backup readable, and how old
  snap_backup action=schedule name=nightly calendar=04:00 volumes=/dat,/pccehr keep=14 ` +
			`backend_options=path=/srv/backup  every night
  snap_backup @/etc/rewind/nightly.json                                    make the scheduled backup now
  snap_backup action=unschedule name=nightly                               end the schedule`,
		Internal: internal,
	}
}

// The values of the argument compare.
const (
	compareRecorded = "recorded"
	compareContent  = "content"
)

func defaults() args {
	return args{
		Action: "backup", Arguments: access.Defaults(), FreezeTimeout: 60, LockTimeout: int(journey.LockWait.Seconds()),
		Compare: compareRecorded, RestoreID: access.Latest,
		Calendar: "04:00", Spread: 3600, Rollback: rollback.Defaults(),
	}
}

// goesWith names the actions that use an argument. The arguments that are not in it go with every action.
var goesWith = map[string][]string{
	"keep":         {"backup", "schedule"},
	"lock_timeout": {"backup", "schedule"},
	"compare":      {"backup", "schedule", "restore"},
	"detach":       {"backup", "restore"},
	"restore_id":   {"restore"},
	"merge":        {"restore"},
	"calendar":     {"schedule"},
	"spread":       {"schedule"},
}

func validate(a args) error {
	if a.Run != "" {
		return a.Waiting.Validate()
	}
	return fault.All(a.Arguments.Validate(), a.Rollback.Validate(), checkValues(a), checkUsed(a))
}

// checkValues says which arguments have a value that no action takes.
func checkValues(a args) error {
	var wrong []error
	if (a.Action == "backup" || a.Action == "schedule") && len(a.Volumes) == 0 {
		wrong = append(wrong, ansible.BadFor("action", "volumes",
			"names nothing to back up: mount points such as /dat, or vg/lv"))
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
	for name, seconds := range map[string]int{"lock_timeout": a.LockTimeout, "spread": a.Spread} {
		if seconds < 0 || seconds > 86400 {
			wrong = append(wrong, ansible.Bad(name, "is %d; it is 0 to 86400 seconds", seconds))
		}
	}
	return fault.All(wrong...)
}

// checkUsed says which arguments the action does not use: whoever gave one expects that it does something.
func checkUsed(a args) error {
	var wrong []error
	for _, name := range ansible.Differing(a, defaults()) {
		if actions := goesWith[name]; actions != nil && !slices.Contains(actions, a.Action) {
			wrong = append(wrong, ansible.BadFor("action", name, "goes with action=%s", strings.Join(actions, " and action=")))
		}
	}
	if !a.Merge { // without a rollback no service is stopped, which whoever gave services would expect
		for _, name := range ansible.Differing(a.Rollback, rollback.Defaults()) {
			wrong = append(wrong, ansible.BadFor("action", name, "goes with action=restore merge=true"))
		}
	}
	return fault.All(wrong...)
}

func execute(ctx context.Context, c ansible.Call, a args) (ansible.Result, error) {
	if err := journey.RequireHostAndRoot(); err != nil {
		return ansible.Result{}, err
	}
	if a.Run != "" {
		return journey.Look(ctx, c, a.Run)
	}
	switch a.Action {
	case "schedule":
		return scheduleBackup(ctx, c, a)
	case "unschedule":
		return schedule.On(command.Local{}).Unset(ctx, orDefault(a.Name, "backup"), c.Check)
	}
	startedAt := time.Now()
	call, err := request(c, a)
	var r ansible.Result
	if err == nil {
		r, err = journey.Show(ctx, c, a.Waiting, call)
	}
	if backup, ok := call.Request.(run.Request); ok && call.Kind == run.Kind && err != nil && !c.Check {
		if recordErr := run.Missed(backup, startedAt, err); recordErr != nil {
			r.Warnings = append(r.Warnings, "that this backup failed cannot be written down: "+recordErr.Error())
		}
	}
	return r, err
}

// scheduleBackup has systemd make the backup from now on. The backup is planned once before, as with --check, so that
// the user learns now what would go wrong at night.
func scheduleBackup(ctx context.Context, c ansible.Call, a args) (r ansible.Result, err error) {
	s := schedule.Schedule{
		Name: orDefault(a.Name, "backup"), Calendar: a.Calendar, Spread: time.Duration(a.Spread) * time.Second,
		Arguments: maps.Clone(c.Given), Install: installProgram,
	}
	if s.Arguments["lock_timeout"] == nil {
		s.Arguments["lock_timeout"] = int(scheduledLockTimeout.Seconds())
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
		if warnings, err = planBackup(ctx, c, a); err == nil && !c.Check {
			r, err = systemd.Set(ctx, s, false)
		}
		r.Warnings = append(warnings, r.Warnings...)
	}
	if warning := systemd.SkippedWarning(ctx, s.Calendar, time.Now()); warning != "" {
		r.Warnings = append(r.Warnings, warning)
	}
	r.Commands = commands.Commands()
	return r, err
}

// scheduledLockTimeout is how long a scheduled backup waits for another run on its volume groups. Thus two backups that
// are due in the same hour are made one after the other.
const scheduledLockTimeout = 6 * time.Hour

func installProgram() error {
	_, err := journey.Install()
	return err
}

// planBackup plans the backup and returns an error if it would fail. While another backup is under way, its set and its
// repository may be in use; that is no reason to refuse the schedule, and becomes a warning.
func planBackup(ctx context.Context, c ansible.Call, a args) (warnings []string, err error) {
	c.Check, c.Patience = true, 0
	call, err := request(c, a)
	var r ansible.Result
	if err == nil {
		r, err = journey.Show(ctx, c, a.Waiting, call)
	}
	if err == nil {
		return r.Warnings, nil
	}
	current, currentErr := journey.Current(ctx)
	isBackup := func(s journey.Status) bool { return s.Kind == run.Kind }
	inUse := errors.Is(err, fault.Exists) || errors.Is(err, fault.Locked) || errors.Is(err, fault.RepositoryLocked)
	if currentErr == nil && inUse && slices.ContainsFunc(current, isBackup) {
		return []string{"it was not planned, because a backup is under way: " + err.Error()}, nil
	}
	return nil, fault.New(fault.Of(err).Code, "such a backup would fail: %w", err)
}

// request returns the run that the arguments ask for.
func request(c ansible.Call, a args) (call journey.Call, err error) {
	use, err := a.Arguments.Use()
	if err != nil {
		return call, err
	}
	freeze := time.Duration(a.FreezeTimeout) * time.Second
	call.Limit = access.Limit(use)
	switch a.Action {
	case "check":
		call.Kind, call.Title = run.KindQuery, "check the repository of "+use.Backend
		call.Request = run.Request{Query: run.Check, Volumes: a.Volumes, Use: use}
	case "restore":
		r := restore.Request{
			Volumes: a.Volumes, Set: orDefault(a.Name, "restore"), Size: a.Size, ID: a.RestoreID, FreezeTimeout: freeze,
			Use:     use,
			ReadAll: a.Compare == compareContent, Merge: a.Merge, Rollback: a.Rollback.Request(), Check: c.Check,
		}
		r.Rollback.Set = r.Set
		call.Kind, call.Title, call.Set, call.Request = restore.Kind, "restore backup "+r.ID+" into set "+r.Set, r.Set, r
		call.Limit += rollback.Limit(r.Rollback)
	default:
		r := run.Request{
			Volumes: a.Volumes, Set: orDefault(a.Name, "backup"), Size: a.Size, FreezeTimeout: freeze, Keep: a.Keep, Use: use,
			Check:   c.Check,
			ReadAll: a.Compare == compareContent, LockTimeout: time.Duration(a.LockTimeout) * time.Second,
		}
		call.Limit += r.LockTimeout
		call.Kind, call.Title, call.Set, call.Request = run.Kind, "back up with "+use.Backend, r.Set, r
	}
	call.Secret, err = a.Arguments.Secrets(c)
	return call, err
}

func orDefault(name, otherwise string) string {
	if name != "" {
		return name
	}
	return otherwise
}

func printResult(w io.Writer, r ansible.Result) {
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
