// Package schedule has systemd make backups on a server, without a controller. Each scheduled backup has a timer, and a
// file with its arguments that only root can read.
package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lock"
)

// Schedule says when and how the backups of one name are made.
type Schedule struct {
	Name      string
	Calendar  string         // a calendar event of systemd.time(7)
	Arguments map[string]any // the arguments of snap_backup as the user gave them, secrets included
	Program   string         // the path of the program that makes the backups; it must stay there
	Install   func() error   // puts the program there

	// Spread is the maximum delay after the time of Calendar, in whole seconds. Each server always has the same delay, so
	// that a thousand servers do not use a repository at the same time.
	Spread time.Duration
}

// Places has the directories of the files, and runs the commands of systemd. Units is where this package writes units,
// and Packaged is where the .deb or .rpm package of Rewind installs them. Where the package's units exist, none are
// written to Units, because they would hide the package's.
type Places struct {
	Arguments, Units, Packaged string
	Zone                       string // the file with the server's time zone
	Commands                   command.Runner
}

// On returns the Places of a real server.
func On(r command.Runner) Places {
	return Places{
		Arguments: "/etc/rewind", Units: "/etc/systemd/system", Packaged: "/usr/lib/systemd/system",
		Zone: "/etc/localtime", Commands: r,
	}
}

const (
	service = "rewind-backup@.service" // journey.ScheduleUnit
	timer   = "rewind-backup@.timer"
	dropIn  = "when.conf"
)

// fileHeader begins every unit file that this package writes. A unit file of the same name without it was written by an
// administrator and is not changed.
const fileHeader = "# Made by snap_backup action=schedule.\n"

const serviceUnit = fileHeader + `[Unit]
Description=Rewind: backup %%i
Wants=network-online.target
After=network-online.target remote-fs.target

[Service]
Type=oneshot
SyslogIdentifier=rewind-backup
ExecStart=%s snap_backup @/etc/rewind/%%i.json
`

const timerUnit = fileHeader + `[Unit]
Description=Rewind: when backup %i is made

[Timer]
OnCalendar=04:00
Persistent=true

[Install]
WantedBy=timers.target
`

// dropInText overrides the timer of one backup. The empty OnCalendar= removes the times of the template; without it the
// new time would be added to them (systemd.timer(5)).
const dropInText = fileHeader + `[Timer]
OnCalendar=
OnCalendar=%s
RandomizedDelaySec=%d
FixedRandomDelay=true
`

// Timer returns the name of the timer unit of the backup called name.
func Timer(name string) string { return instanceOf(timer, name) }

// instanceOf returns the name of the unit that a template unit makes for name.
func instanceOf(template, name string) string { return strings.Replace(template, "@", "@"+name, 1) }

// Check returns bad_arguments if the name of s cannot be part of a unit's name, or if systemd does not know its
// calendar or sees no such time in the future.
func (p Places) Check(ctx context.Context, s Schedule) error {
	if strings.Contains(s.Name, "+") {
		return ansible.Bad("name", "%q cannot be part of a unit's name, because of its +", s.Name)
	}
	if strings.ContainsAny(s.Calendar, "\n\x00") || s.Calendar == "" {
		return ansible.Bad("calendar", "is no line")
	}
	out, err := p.Commands.Run(ctx, command.Cmd{Argv: []string{"systemd-analyze", "calendar", "--", s.Calendar}})
	if err == nil && strings.Contains(out.Stdout, "Next elapse: never") {
		return ansible.Bad("calendar", "%q lies in the past for good", s.Calendar)
	}
	if err != nil {
		return ansible.Bad("calendar", "%q is no time that systemd knows", s.Calendar).
			WithHint("such as 04:00, Mon..Fri 22:30 or *-*-1 04:00; systemd-analyze calendar %q says what is wrong", s.Calendar)
	}
	return nil
}

// Set writes the files of the schedule and starts its timer. If check is true, it changes nothing and says what would
// change. Faults: exists if an administrator has a unit file of the same name, locked, unsupported if others than root
// can write to the directory of the arguments, service_failed, internal, and those of s.Install.
func (p Places) Set(ctx context.Context, s Schedule, check bool) (ansible.Result, error) {
	if err := checkTrusted(p.Arguments); err != nil {
		return ansible.Result{}, err
	}
	if check {
		return p.set(ctx, s, check)
	}
	if err := durable.MkdirAll(p.Arguments, 0o755); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "%w", err)
	}
	release, err := p.lock(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	defer release()
	return p.set(ctx, s, check)
}

func (p Places) set(ctx context.Context, s Schedule, check bool) (ansible.Result, error) {
	files, err := p.wantedFiles(s)
	if err != nil {
		return ansible.Result{}, err
	}
	changed, err := p.changedFiles(files)
	if err != nil {
		return ansible.Result{}, err
	}
	current, err := p.state(ctx, s.Name)
	if err != nil {
		return ansible.Result{}, err
	}
	header := "schedule " + s.Name
	r := ansible.Result{
		Changed: len(changed) > 0 || !p.canRun(s) || !(current.active && current.enabled && current.loaded),
		Data:    map[string]any{"name": s.Name, "timer": Timer(s.Name), "calendar": s.Calendar},
		Diff: &ansible.Diff{
			Before: p.currentText(s.Name), After: textOf(s), BeforeHeader: header, AfterHeader: header,
		},
	}
	if !r.Changed {
		r.Msg = fmt.Sprintf("backup %s is made at %s already", s.Name, s.Calendar)
		return r, nil
	}
	if check {
		r.Msg = fmt.Sprintf("backup %s would be made at %s", s.Name, s.Calendar)
		return r, nil
	}
	r.Msg = fmt.Sprintf("backup %s is made at %s", s.Name, s.Calendar)
	if !p.hasPackage() {
		if err := s.Install(); err != nil {
			return r, err
		}
	}
	return r, p.install(ctx, s.Name, changed, current)
}

// hasPackage reports whether the units of the package are there, which have a program of their own.
func (p Places) hasPackage() bool {
	_, err := os.Stat(filepath.Join(p.Packaged, service))
	return err == nil
}

// canRun reports whether the program of the schedule is where its unit looks for it.
func (p Places) canRun(s Schedule) bool {
	_, err := os.Stat(s.Program)
	return err == nil || p.hasPackage()
}

// install writes the files and starts the timer. Before that it stops the timer and removes the time of its last run,
// which systemd keeps. Otherwise systemd would treat a new time between that run and now as missed, and begin the
// backup at once on every server. A timer that was active is started again even after an error: backups go on.
func (p Places) install(ctx context.Context, name string, files []file, current timerState) error {
	if err := writeAll(files); err != nil {
		return err
	}
	if current.active {
		if err := p.systemctl(ctx, "stop", Timer(name)); err != nil {
			return err
		}
	}
	err := p.enable(ctx, name)
	if err != nil && !current.active {
		return err
	}
	return fault.All(err, p.systemctl(context.WithoutCancel(ctx), "start", Timer(name)))
}

// enable has systemd read the files, forget when the timer elapsed last, and start it at each boot.
func (p Places) enable(ctx context.Context, name string) error {
	if err := p.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	if err := p.forgetRuns(ctx, name); err != nil {
		return err
	}
	return p.systemctl(ctx, "enable", Timer(name))
}

// lockLimit is how long the package waits for another process that changes schedules. That takes a second.
const lockLimit = time.Minute

// lock waits until no other process changes schedules on this server: the arguments of one with the calendar of another
// are what nobody wanted. Where there is no directory to lock, there is no schedule. Faults: locked, internal.
func (p Places) lock(ctx context.Context) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	l, err := lock.Wait(ctx, p.Arguments, lock.Exclusive)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return func() {}, nil
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return nil, fault.New(fault.Locked, "another process changes the schedules of this server and has locked %s",
			p.Arguments).WithHint("run the same again; fuser -v %s says who it is", p.Arguments)
	case err != nil:
		return nil, fault.New(fault.Internal, "lock %s: %w", p.Arguments, err)
	}
	return l.Release, nil
}

// Unset removes the schedule of that name: systemd begins no more of its backups, and one that is under way goes on.
// The template units that this package wrote go with the last schedule. If check is true, Unset changes nothing and
// says what would change. Faults: locked, service_failed, internal.
func (p Places) Unset(ctx context.Context, name string, check bool) (ansible.Result, error) {
	r := ansible.Result{Data: map[string]any{"name": name}, Msg: "backup " + name + " is not scheduled"}
	if !check {
		release, err := p.lock(ctx)
		if err != nil {
			return r, err
		}
		defer release()
	}
	files := []file{{path: p.argumentsPath(name)}, {path: p.dropInPath(name)}, {path: p.enabledPath(name)}}
	existing := slices.DeleteFunc(files, func(f file) bool {
		_, err := os.Lstat(f.path)
		return errors.Is(err, fs.ErrNotExist)
	})
	current, err := p.state(ctx, name)
	if err != nil || len(existing) == 0 && !current.active && !current.enabled {
		return r, err
	}
	r.Changed, r.Msg = true, "backup "+name+" would not be made any more"
	r.Diff = &ansible.Diff{Before: p.currentText(name), BeforeHeader: "schedule " + name, AfterHeader: "schedule " + name}
	if check {
		return r, nil
	}
	r.Msg = "backup " + name + " is not made any more"
	if current.exists { // the units may have been removed by hand or with a package
		if err := p.systemctl(ctx, "disable", "--now", Timer(name)); err != nil {
			return r, err
		}
		if err := p.forgetRuns(ctx, name); err != nil {
			return r, err
		}
	}
	for _, f := range existing {
		if err := durable.Remove(f.path); err != nil {
			return r, fault.New(fault.Internal, "%w", err)
		}
	}
	_ = os.Remove(filepath.Dir(p.dropInPath(name))) // this fails if the administrator has files there, too
	if err := p.removeUnusedUnits(); err != nil {
		return r, err
	}

	// Otherwise systemd would go on to list a failed unit for a backup that nobody wants any more. The command fails if
	// the unit is not in the state failed.
	_ = p.systemctl(ctx, "reset-failed", instanceOf(service, name))
	return r, p.systemctl(ctx, "daemon-reload")
}

// textOf returns the text of a schedule for a diff.
func textOf(s Schedule) string {
	return scheduleText(s.Calendar, fmt.Sprint(int64(s.Spread.Seconds())), s.backupArguments())
}

// currentText returns the text for a diff of the schedule that the files have now, or "" if there is none.
func (p Places) currentText(name string) string {
	dropIn, err := os.ReadFile(p.dropInPath(name))
	data, argumentsErr := os.ReadFile(p.argumentsPath(name))
	if err != nil || argumentsErr != nil {
		return ""
	}
	var arguments map[string]any
	_ = json.Unmarshal(data, &arguments) // a damaged file is written again
	setting := func(key string) (value string) {
		for line := range strings.Lines(string(dropIn)) {
			if after, ok := strings.CutPrefix(line, key+"="); ok {
				value = strings.TrimSpace(after)
			}
		}
		return value
	}
	return scheduleText(setting("OnCalendar"), setting("RandomizedDelaySec"), arguments)
}

// scheduleText writes every argument on a line of its own. It hides the content of environment, which is secret.
func scheduleText(calendar, spread string, arguments map[string]any) string {
	lines := []string{"calendar: " + calendar, "spread: " + spread}
	for _, key := range slices.Sorted(maps.Keys(arguments)) {
		value, _ := json.Marshal(arguments[key])
		switch key {
		case "environment":
			value = []byte("(not shown)")
		case "name": // the headers of the diff contain it
			continue
		}
		lines = append(lines, key+": "+string(value))
	}
	return strings.Join(lines, "\n") + "\n"
}
