package schedule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lock"
)

// fakeSystemd plays systemctl and systemd-analyze. It knows at most one timer.
type fakeSystemd struct {
	active     bool
	needReload bool     // unit files were written since systemd read them
	noUnit     bool     // systemd does not find the unit
	forgetful  bool     // an administrator's drop-in has Persistent=false, and systemd keeps nothing that it could clean
	broken     bool     // systemd cannot read its files again: the disk is full
	failed     bool     // the timer could not start its service; systemd cleans no unit in that state
	changes    []string // the commands that changed something
}

func (s *fakeSystemd) Run(_ context.Context, c command.Cmd) (out command.Output, err error) {
	words := strings.Join(c.Argv, " ")
	switch {
	case strings.HasPrefix(words, "systemctl show"):
		out.Stdout = "LoadState=loaded\nActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no\n"
		if s.active {
			out.Stdout = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n"
		}
		if s.noUnit {
			out.Stdout = "LoadState=not-found\nActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no\n"
		}
		if s.failed {
			out.Stdout = "LoadState=loaded\nActiveState=failed\nUnitFileState=enabled\nNeedDaemonReload=no\n"
		}
		out.Stdout += map[bool]string{true: "Persistent=no\n", false: "Persistent=yes\n"}[s.forgetful]
		if s.needReload {
			out.Stdout = strings.ReplaceAll(out.Stdout, "Reload=no", "Reload=yes")
		}
		return out, nil
	case strings.HasPrefix(words, "systemd-analyze calendar"):
		switch c.Argv[len(c.Argv)-1] {
		case "never":
			err = errors.New("exit code 1")
		case "2020-01-01":
			out.Stdout = "Normalized form: 2020-01-01 00:00:00\n    Next elapse: never\n"
		}
		return out, err
	}
	switch c.Argv[2] {
	case "start", "stop", "disable":
		s.active = c.Argv[2] == "start"
	case "daemon-reload":
		if s.broken {
			return out, errors.New("Failed to reload daemon")
		}
		s.needReload = false
	case "reset-failed":
		s.failed = s.failed && c.Argv[3] != "rewind-backup@nightly.timer"
	case "clean":
		if s.forgetful {
			return out, errors.New("Failed to clean unit: No matching resources found.")
		}
		if s.failed {
			return out, errors.New("Failed to clean unit: Unit is not inactive or has pending job.")
		}
	}
	s.changes = append(s.changes, words)
	return out, nil
}

func places(t *testing.T) (Places, *fakeSystemd) {
	s := new(fakeSystemd)
	dir := t.TempDir()
	return Places{Arguments: dir + "/etc/rewind", Units: dir + "/units", Packaged: dir + "/packaged", Commands: s}, s
}

func nightly() Schedule {
	return Schedule{
		Install: func() error { return nil },
		Name:    "nightly", Calendar: "02:00", Spread: time.Hour, Program: "/bin/sh",
		Arguments: map[string]any{
			"action": "schedule", "calendar": "02:00", "spread": "3600", "volumes": []any{"/dat"},
			"environment": map[string]any{"RESTIC_PASSWORD": "swordfish"},
		},
	}
}

// readFiles returns the content of each file below the places, by name. The name ends with the mode if that is 0600.
func readFiles(t *testing.T, p Places) map[string]string {
	t.Helper()
	dir := filepath.Dir(p.Units)
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		if info, _ := d.Info(); info.Mode().Perm() == 0o600 {
			name += " 0600"
		}
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSetAndUnsetAreIdempotent(t *testing.T) {
	p, systemd := places(t)
	r, err := p.Set(t.Context(), nightly(), true)
	if err != nil || !r.Changed || len(readFiles(t, p)) != 0 || len(systemd.changes) != 0 {
		t.Errorf("a check changes %v, %q: %+v, %v", readFiles(t, p), systemd.changes, r, err)
	}
	if r, err = p.Set(t.Context(), nightly(), false); err != nil || !r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	want := map[string]string{
		"etc/rewind/nightly.json 0600": "{\n  \"environment\": {\n    \"RESTIC_PASSWORD\": \"swordfish\"\n  },\n" +
			"  \"name\": \"nightly\",\n  \"volumes\": [\n    \"/dat\"\n  ]\n}\n",
		"units/rewind-backup@nightly.timer.d/when.conf": fileHeader + "[Timer]\nOnCalendar=\nOnCalendar=02:00\n" +
			"RandomizedDelaySec=3600\nFixedRandomDelay=true\n",
		"units/rewind-backup@.timer": timerUnit,
		"units/rewind-backup@.service": strings.NewReplacer("%%", "%", "%s", "/bin/sh").
			Replace(serviceUnit),
	}
	if diff := cmp.Diff(want, readFiles(t, p)); diff != "" {
		t.Error(diff)
	}
	timer := "rewind-backup@nightly.timer"
	if diff := cmp.Diff([]string{"systemctl --quiet daemon-reload", "systemctl --quiet clean --what=state " + timer,
		"systemctl --quiet enable " + timer, "systemctl --quiet start " + timer}, systemd.changes); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(r.Diff.After, "swordfish") || !strings.Contains(r.Diff.After, `volumes: ["/dat"]`) ||
		r.Diff.Before != "" {
		t.Errorf("diff %+v", r.Diff)
	}
	if r, err = p.Set(t.Context(), nightly(), false); err != nil || r.Changed || r.Diff.Before != r.Diff.After {
		t.Errorf("again: %+v, %v", r, err)
	}
	if r, err = p.Unset(t.Context(), "nightly", true); err != nil || !r.Changed || !systemd.active {
		t.Errorf("a check of unset: %+v, %v", r, err)
	}
	if r, err = p.Unset(t.Context(), "nightly", false); err != nil || !r.Changed || systemd.active {
		t.Errorf("unset: %+v, %v", r, err)
	}
	if left := readFiles(t, p); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if r, err = p.Unset(t.Context(), "nightly", false); err != nil || r.Changed {
		t.Errorf("unset again: %+v, %v", r, err)
	}
}

// If Set was killed after it wrote the files and before systemd knew them, the next Set finishes its work.
func TestSetFinishesInterruptedSet(t *testing.T) {
	p, systemd := places(t)
	for _, interrupt := range []func(){func() { systemd.active = false }, func() { systemd.needReload = true }} {
		if _, err := p.Set(t.Context(), nightly(), false); err != nil {
			t.Fatal(err)
		}
		interrupt()
		if r, err := p.Set(t.Context(), nightly(), false); err != nil || !r.Changed || !systemd.active || systemd.needReload {
			t.Errorf("%+v, %v; systemd %+v", r, err, systemd)
		}
	}
}

// Somebody may have removed the program, and no backup can begin. The same call again puts it back, unless the
// package's units are used, which have a program of their own.
func TestProgramThatIsGoneIsInstalledAgain(t *testing.T) {
	p, _ := places(t)
	s := nightly()
	s.Program = filepath.Join(t.TempDir(), "rewind-1")
	s.Install = func() error { return os.WriteFile(s.Program, nil, 0o700) }
	for range 2 {
		r, err := p.Set(t.Context(), s, true)
		if _, statErr := os.Stat(s.Program); err != nil || !r.Changed || !errors.Is(statErr, os.ErrNotExist) {
			t.Fatalf("a check: %+v, %v; the program: %v", r, err, statErr)
		}
		r, err = p.Set(t.Context(), s, false)
		if _, statErr := os.Stat(s.Program); err != nil || !r.Changed || statErr != nil {
			t.Fatalf("%+v, %v; the program: %v", r, err, statErr)
		}
		if r, err = p.Set(t.Context(), s, false); err != nil || r.Changed {
			t.Fatalf("again: %+v, %v", r, err)
		}
		if err := os.Remove(s.Program); err != nil {
			t.Fatal(err)
		}
	}
	packaged := filepath.Join(p.Packaged, service)
	if err := errors.Join(os.MkdirAll(p.Packaged, 0o755), os.WriteFile(packaged, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Set(t.Context(), s, false); err != nil {
		t.Fatal(err)
	}
	if r, err := p.Set(t.Context(), s, true); err != nil || r.Changed {
		t.Errorf("with the package's units: %+v, %v", r, err)
	}
}

// Two controllers may schedule at the same time. The arguments of one with the calendar of the other would be what none
// of them wanted, and both would say that all went well.
func TestOneScheduleIsChangedAtATime(t *testing.T) {
	p, systemd := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	other, err := lock.Exclusive(p.Arguments)
	if err != nil {
		t.Fatal(err)
	}
	systemd.changes = nil
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	later := nightly()
	later.Calendar = "05:00"
	if _, err := p.Set(ctx, later, false); !errors.Is(err, fault.Locked) {
		t.Errorf("set: %v", err)
	}
	if _, err := p.Unset(ctx, "nightly", false); !errors.Is(err, fault.Locked) {
		t.Errorf("unset: %v", err)
	}
	if len(systemd.changes) > 0 {
		t.Errorf("meanwhile: %q", systemd.changes)
	}
	if _, err := p.Set(t.Context(), later, true); err != nil {
		t.Errorf("a check: %v", err)
	}
	other.Release()
	if r, err := p.Set(t.Context(), later, false); err != nil || !r.Changed {
		t.Errorf("afterwards: %+v, %v", r, err)
	}
}

// systemd must not treat a new time between the last run and now as missed. So Set stops the timer and removes the time
// of its last run before it starts the timer with its new times.
func TestNewCalendarStartsNoBackup(t *testing.T) {
	p, systemd := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	systemd.changes = nil
	later := nightly()
	later.Calendar = "04:00"
	if _, err := p.Set(t.Context(), later, false); err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for _, words := range systemd.changes {
		verbs = append(verbs, strings.Fields(words)[2])
	}
	if got := strings.Join(verbs, " "); got != "stop daemon-reload clean enable start" {
		t.Errorf("%s", got)
	}
}

// A schedule that cannot be changed stays as it was: backups go on.
func TestFailedChangeLeavesTheTimerActive(t *testing.T) {
	p, systemd := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	later := nightly()
	later.Calendar = "04:00"
	systemd.broken = true
	if _, err := p.Set(t.Context(), later, false); err == nil || !systemd.active {
		t.Errorf("systemd reads no files: %v, active %v", err, systemd.active)
	}
	systemd.broken = false
	if err := os.RemoveAll(filepath.Dir(p.dropInPath("nightly"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Dir(p.dropInPath("nightly")), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Set(t.Context(), later, false); err == nil || !systemd.active {
		t.Errorf("nothing can be written: %v, active %v", err, systemd.active)
	}
}

// A timer whose service systemd could not start (it was masked, or its file was gone) is in the state failed, in which
// systemd refuses to remove the time of its last run.
func TestFailedTimerIsSetAndUnset(t *testing.T) {
	p, systemd := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	systemd.active, systemd.failed = false, true
	if r, err := p.Set(t.Context(), nightly(), false); err != nil || !r.Changed || !systemd.active {
		t.Errorf("set: %+v, %v", r, err)
	}
	systemd.active, systemd.failed = false, true
	if r, err := p.Unset(t.Context(), "nightly", false); err != nil || !r.Changed {
		t.Errorf("unset: %+v, %v", r, err)
	}
	if _, err := os.Stat(p.argumentsPath("nightly")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its secrets are still there: %v", err)
	}
}

// An administrator may want no backup at once after a downtime, and set Persistent=false.
func TestTimerThatIsNotPersistentIsSetAndUnset(t *testing.T) {
	p, systemd := places(t)
	systemd.forgetful = true
	if r, err := p.Set(t.Context(), nightly(), false); err != nil || !r.Changed || !systemd.active {
		t.Errorf("set: %+v, %v", r, err)
	}
	if r, err := p.Unset(t.Context(), "nightly", false); err != nil || !r.Changed || systemd.active {
		t.Errorf("unset: %+v, %v", r, err)
	}
}

// The arguments contain secrets, so others must not read them, and root obeys them, so others must not write them.
func TestArgumentsAreForRootAlone(t *testing.T) {
	p, _ := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	path := p.argumentsPath("nightly")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := p.Set(t.Context(), nightly(), false)
	if info, _ := os.Stat(path); err != nil || !r.Changed || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, %v", r.Changed, err, info.Mode())
	}
	if err := os.Chmod(p.Arguments, 0o775); err != nil {
		t.Fatal(err)
	}
	_, err = p.Set(t.Context(), nightly(), false)
	if !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), p.Arguments) {
		t.Errorf("%v", err)
	}
}

// The units may have been removed by hand or with a package. Unset then still removes the other files.
func TestUnsetWorksWithoutUnits(t *testing.T) {
	p, systemd := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	// What systemctl enable has made; the next installation of the package would start the timer by it.
	link := filepath.Join(p.Units, "timers.target.wants", Timer("nightly"))
	err := errors.Join(os.Mkdir(filepath.Dir(link), 0o755), os.Symlink(filepath.Join(p.Packaged, timer), link))
	if err != nil {
		t.Fatal(err)
	}
	systemd.noUnit = true
	if r, err := p.Unset(t.Context(), "nightly", false); err != nil || !r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	for _, path := range []string{p.argumentsPath("nightly"), link} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

// Where a package has installed units, Set writes none that would hide them, and removes those that it wrote before the
// package was installed.
func TestPackagedUnitsAreNotHidden(t *testing.T) {
	p, _ := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	packaged := filepath.Join(p.Packaged, service)
	err := errors.Join(os.MkdirAll(p.Packaged, 0o755), os.WriteFile(packaged, []byte("[Service]\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := p.Set(t.Context(), nightly(), false); err != nil || !r.Changed {
		t.Fatalf("%+v, %v", r, err)
	}
	for name := range readFiles(t, p) {
		if strings.HasPrefix(name, "units/rewind-backup@.") {
			t.Errorf("%s is still there", name)
		}
	}
}

// The template units go with the last schedule, and are written again with the next one. Those that an administrator
// wrote stay, and so do all while anything may still use them.
func TestLastScheduleTakesTheUnitsAlong(t *testing.T) {
	isThere := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	for what, keep := range map[string]func(p Places) string{
		"another schedule": func(p Places) string { return p.argumentsPath("weekly") },
		"another drop-in":  func(p Places) string { return p.dropInPath("weekly") },
		"another link":     func(p Places) string { return p.enabledPath("weekly") },
	} {
		p, systemd := places(t)
		if _, err := p.Set(t.Context(), nightly(), false); err != nil {
			t.Fatal(err)
		}
		units := []string{filepath.Join(p.Units, service), filepath.Join(p.Units, timer)}
		path := keep(p)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("{}"), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Unset(t.Context(), "nightly", false); err != nil || !isThere(units[0]) || !isThere(units[1]) {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Set(t.Context(), nightly(), false); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(units[0], []byte("[Service]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		systemd.changes = nil
		if _, err := p.Unset(t.Context(), "nightly", false); err != nil || !isThere(units[0]) || isThere(units[1]) {
			t.Errorf("an administrator's service: %v; it is there: %v, our timer is: %v", err, isThere(units[0]),
				isThere(units[1]))
		}
		if last := systemd.changes[len(systemd.changes)-1]; last != "systemctl --quiet daemon-reload" {
			t.Errorf("the last command is %q", last)
		}
		if err := os.Remove(units[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Set(t.Context(), nightly(), false); err != nil || !isThere(units[0]) || !isThere(units[1]) {
			t.Errorf("set again: %v", err)
		}
	}
}

func TestAdministratorsUnitIsKept(t *testing.T) {
	p, systemd := places(t)
	path := filepath.Join(p.Units, service)
	if err := errors.Join(os.MkdirAll(p.Units, 0o755), os.WriteFile(path, []byte("[Service]\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	_, err := p.Set(t.Context(), nightly(), false)
	if !errors.Is(err, fault.Exists) || !strings.Contains(err.Error(), path) || len(systemd.changes) > 0 {
		t.Errorf("%v; it ran %q", err, systemd.changes)
	}
}

func TestCheckRefusesNameAndCalendar(t *testing.T) {
	p, _ := places(t)
	for name, s := range map[string]Schedule{
		"calendar": {Name: "nightly", Calendar: "never"}, "name": {Name: "a+b", Calendar: "02:00"},
		`calendar: "2020-01-01" lies`: {Name: "nightly", Calendar: "2020-01-01"},
		"calendar: is":                {Name: "nightly", Calendar: "02:00\n[Service]"}, "calendar: is no": {Name: "nightly"},
	} {
		if err := p.Check(t.Context(), s); !errors.Is(err, fault.BadArguments) || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if err := p.Check(t.Context(), nightly()); err != nil {
		t.Error(err)
	}
}

// Package journey reads this unit to find the programs that schedules use.
func TestUnitPathMatchesJourney(t *testing.T) {
	if unit := filepath.Join(On(nil).Units, service); unit != journey.ScheduleUnit {
		t.Error(unit)
	}
}

// The units in the .deb and .rpm packages have every line of the units that this package writes.
func TestPackagedUnitsMatchWrittenOnes(t *testing.T) {
	for file, text := range map[string]string{
		"rewind-backup@.service": fmt.Sprintf(serviceUnit, "/usr/sbin/"), "rewind-backup@.timer": timerUnit,
	} {
		packaged, err := os.ReadFile(filepath.Join("../../../packages/systemd", file))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(packaged), "\n")
		text = strings.TrimPrefix(strings.ReplaceAll(text, "/usr/sbin/ ", "/usr/sbin/"), fileHeader)
		for line := range strings.Lines(text) {
			if !slices.Contains(lines, strings.TrimSuffix(line, "\n")) {
				t.Errorf("%s of the package has no %s", file, line)
			}
		}
	}
}
