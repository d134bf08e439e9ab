// Package schedule has systemd make backups on a server, without a controller: a timer of each name, and its arguments in
// a file for root alone.
package schedule

import (
	"bytes"
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
	"go.pcc.com/rewind/core/trust"
)

// Schedule is when backups of one name are made, and how.
type Schedule struct {
	Name      string
	Calendar  string         // as systemd.time(7) has it
	Spread    time.Duration  // each server begins so much later at most, always by the same: a thousand share a repository
	Arguments map[string]any // of snap_backup, as they were given; secrets with them
	Program   string         // what makes them: a program that stays where it is
}

// Places are the directories of the files, and what systemd is asked with. Packaged is where a package has units: it
// knows its own program, so none are written beside it.
type Places struct {
	Arguments, Units, Packaged string
	Commands                   command.Runner
}

// On is a server as it is.
func On(r command.Runner) Places {
	return Places{Arguments: "/etc/rewind", Units: "/etc/systemd/system", Packaged: "/usr/lib/systemd/system", Commands: r}
}

const (
	service = "rewind-backup@.service" // journey.ScheduleUnit
	timer   = "rewind-backup@.timer"
	dropIn  = "when.conf"
)

// made begins every file that this package writes: what an administrator wrote under such a name is left alone.
const made = "# Made by snap_backup action=schedule.\n"

const serviceText = made + `[Unit]
Description=Rewind: backup %%i
Wants=network-online.target
After=network-online.target remote-fs.target

[Service]
Type=oneshot
SyslogIdentifier=rewind-backup
ExecStart=%s snap_backup @/etc/rewind/%%i.json
`

const timerText = made + `[Unit]
Description=Rewind: when backup %i is made

[Timer]
OnCalendar=02:00
Persistent=true

[Install]
WantedBy=timers.target
`

// A list of times that is set to nothing first is not added to the timer's own.
const whenText = made + `[Timer]
OnCalendar=
OnCalendar=%s
RandomizedDelaySec=%d
FixedRandomDelay=true
`

// Timer is the name of the timer of a backup.
func Timer(name string) string { return instance(timer, name) }

// instance is the unit that a template is for a name.
func instance(template, name string) string { return strings.Replace(template, "@", "@"+name, 1) }

// Check says what is wrong with a name or a calendar.
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
			WithHint("such as 02:00, Mon..Fri 22:30 or *-*-1 04:00; systemd-analyze calendar %q says what is wrong", s.Calendar)
	}
	return nil
}

// Set makes it so. Check: it says what would be done.
func (p Places) Set(ctx context.Context, s Schedule, check bool) (ansible.Result, error) {
	files, err := p.files(s)
	if err == nil {
		err = trusted(p.Arguments)
	}
	if err != nil {
		return ansible.Result{}, err
	}
	changed, err := p.differing(files)
	if err != nil {
		return ansible.Result{}, err
	}
	now, err := p.state(ctx, s.Name)
	if err != nil {
		return ansible.Result{}, err
	}
	r := ansible.Result{
		Changed: len(changed) > 0 || !(now.active && now.enabled && now.loaded), Data: map[string]any{"name": s.Name, "timer": Timer(s.Name), "calendar": s.Calendar},
		Diff: &ansible.Diff{Before: p.shown(s.Name), After: text(s), BeforeHeader: "schedule " + s.Name, AfterHeader: "schedule " + s.Name},
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
	return r, p.put(ctx, s.Name, changed, now)
}

// put writes the files and starts the timer. What systemd remembers of an earlier time is forgotten first: it would take
// a time that lies between as missed, and begin at once on every server.
func (p Places) put(ctx context.Context, name string, files []file, now state) error {
	if now.active {
		if err := p.systemctl(ctx, "stop", Timer(name)); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := f.write(); err != nil {
			return fault.New(fault.Internal, "%w", err)
		}
	}
	for _, words := range [][]string{{"daemon-reload"}, {"clean", "--what=state", Timer(name)}, {"enable", Timer(name)}, {"start", Timer(name)}} {
		if err := p.systemctl(ctx, words...); err != nil {
			return err
		}
	}
	return nil
}

// Unset takes it away: no backup of that name is begun any more. One that is under way goes on.
func (p Places) Unset(ctx context.Context, name string, check bool) (ansible.Result, error) {
	r := ansible.Result{Data: map[string]any{"name": name}, Msg: "backup " + name + " is not scheduled"}
	files := []file{{path: p.arguments(name)}, {path: p.when(name)}}
	there := slices.DeleteFunc(files, func(f file) bool { _, err := os.Lstat(f.path); return errors.Is(err, fs.ErrNotExist) })
	now, err := p.state(ctx, name)
	if err != nil || len(there) == 0 && !now.active && !now.enabled {
		return r, err
	}
	r.Changed, r.Msg = true, "backup "+name+" would not be made any more"
	r.Diff = &ansible.Diff{Before: p.shown(name), BeforeHeader: "schedule " + name, AfterHeader: "schedule " + name}
	if check {
		return r, nil
	}
	r.Msg = "backup " + name + " is not made any more"
	if now.known { // else its units are gone
		for _, words := range [][]string{{"disable", "--now", Timer(name)}, {"clean", "--what=state", Timer(name)}} {
			if err := p.systemctl(ctx, words...); err != nil {
				return r, err
			}
		}
	}
	for _, f := range there {
		if err := durable.Remove(f.path); err != nil {
			return r, fault.New(fault.Internal, "%w", err)
		}
	}
	_ = os.Remove(filepath.Dir(p.when(name))) // unless the administrator has files there, too

	// Else a unit that failed would tell of a backup that nobody wants any more; it may not have failed.
	_ = p.systemctl(ctx, "reset-failed", instance(service, name))
	return r, p.systemctl(ctx, "daemon-reload")
}

// file is a file as it is to be; one without text is not to be there.
type file struct {
	path, text string
	mode       os.FileMode
}

// closed says whether nobody reads the file who is not to.
func closed(f file) bool {
	info, err := os.Lstat(f.path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&^f.mode == 0
}

func (f file) write() error {
	if f.text == "" {
		return durable.Remove(f.path)
	}
	if err := durable.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(f.path, []byte(f.text), f.mode)
}

func (p Places) arguments(name string) string { return filepath.Join(p.Arguments, name+".json") }

func (p Places) when(name string) string { return filepath.Join(p.Units, Timer(name)+".d", dropIn) }

// kept are the arguments of the backup: those that say when it is made are the timer's.
func (s Schedule) kept() map[string]any {
	arguments := maps.Clone(s.Arguments)
	for _, name := range []string{"action", "calendar", "spread"} {
		delete(arguments, name)
	}
	arguments["name"] = s.Name
	return arguments
}

// files are those of a schedule, the one last that makes the timer go off.
func (p Places) files(s Schedule) ([]file, error) {
	data, err := json.MarshalIndent(s.kept(), "", "  ")
	if err != nil {
		return nil, fault.New(fault.Internal, "the arguments are not fit for JSON") // the error would quote them
	}
	units := []file{
		{filepath.Join(p.Units, service), fmt.Sprintf(serviceText, s.Program), 0o644},
		{filepath.Join(p.Units, timer), timerText, 0o644},
	}
	if _, err := os.Stat(filepath.Join(p.Packaged, service)); err == nil {
		units[0].text, units[1].text = "", "" // the package's own are not to be hidden
	}
	when := file{p.when(s.Name), fmt.Sprintf(whenText, s.Calendar, int64(s.Spread.Seconds())), 0o644}
	return append(units, file{p.arguments(s.Name), string(data) + "\n", 0o600}, when), nil
}

// trusted refuses a directory in which others than root could give root's backups their arguments.
func trusted(dir string) error {
	changeable := (*trust.Error)(nil)
	err := trust.Dir(dir)
	if errors.As(err, &changeable) {
		return fault.New(fault.Unsupported, "%w, and root would do what stands in %s", err, dir).
			WithHint("%s", changeable.Remedy())
	}
	if err != nil {
		return fault.New(fault.Internal, "%w", err)
	}
	return nil
}

// differing are the files that are not as they are to be. A unit that an administrator wrote is not one of them.
func (p Places) differing(files []file) (list []file, err error) {
	for _, f := range files {
		have, err := os.ReadFile(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if f.text != "" {
				list = append(list, f)
			}
		case err != nil:
			return nil, fault.New(fault.Internal, "%w", err)
		case string(have) == f.text && closed(f):
		case filepath.Ext(f.path) != ".json" && !bytes.HasPrefix(have, []byte(made)):
			if f.text != "" {
				return nil, fault.New(fault.Exists, "%s is there, and not from here", f.path).WithHint("move it away, and run the same again")
			}
		default:
			list = append(list, f)
		}
	}
	return list, nil
}

// state is what systemd knows of a timer.
type state struct {
	known   bool // there is such a unit
	active  bool
	enabled bool // it is active after the next boot
	loaded  bool // it is as its files are now
}

func (p Places) state(ctx context.Context, name string) (s state, err error) {
	const properties = "LoadState,ActiveState,UnitFileState,NeedDaemonReload"
	out, err := p.Commands.Run(ctx, command.Cmd{Argv: []string{"systemctl", "show", "-p", properties, Timer(name)}})
	for line := range strings.Lines(out.Stdout) {
		switch strings.TrimSpace(line) {
		case "LoadState=loaded":
			s.known = true
		case "ActiveState=active":
			s.active = true
		case "UnitFileState=enabled":
			s.enabled = true
		case "NeedDaemonReload=no":
			s.loaded = true
		}
	}
	return s, err
}

func (p Places) systemctl(ctx context.Context, words ...string) error {
	_, err := p.Commands.Run(ctx, command.Cmd{Argv: append([]string{"systemctl", "--quiet"}, words...), Changes: true})
	if err != nil {
		return fault.New(fault.ServiceFailed, "%w", err).WithHint("systemctl status says why; run the same again")
	}
	return nil
}

// text is what of a schedule a diff shows.
func text(s Schedule) string {
	return shown(s.Calendar, fmt.Sprint(int64(s.Spread.Seconds())), s.kept())
}

// shown is what a diff shows of the schedule that is there; empty: there is none.
func (p Places) shown(name string) string {
	when, err := os.ReadFile(p.when(name))
	data, missing := os.ReadFile(p.arguments(name))
	if err != nil || missing != nil {
		return ""
	}
	var arguments map[string]any
	_ = json.Unmarshal(data, &arguments) // a damaged one is written anew
	setting := func(key string) (value string) {
		for line := range strings.Lines(string(when)) {
			if rest, ok := strings.CutPrefix(line, key+"="); ok {
				value = strings.TrimSpace(rest)
			}
		}
		return value
	}
	return shown(setting("OnCalendar"), setting("RandomizedDelaySec"), arguments)
}

// shown names every argument on a line of its own; of the environment, which is secret, only that there is one.
func shown(calendar, spread string, arguments map[string]any) string {
	lines := []string{"calendar: " + calendar, "spread: " + spread}
	for _, key := range slices.Sorted(maps.Keys(arguments)) {
		value, _ := json.Marshal(arguments[key])
		switch key {
		case "environment":
			value = []byte("(not shown)")
		case "name": // the diff's headers have it
			continue
		}
		lines = append(lines, key+": "+string(value))
	}
	return strings.Join(lines, "\n") + "\n"
}
