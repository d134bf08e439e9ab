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
)

// systemd is one that has a timer or not, and knows one calendar.
type systemd struct {
	active  bool
	reload  bool // it has read no file since one was written
	unknown bool // it has no such unit
	ran     []string
}

func (s *systemd) Run(_ context.Context, c command.Cmd) (out command.Output, err error) {
	words := strings.Join(c.Argv, " ")
	switch {
	case strings.HasPrefix(words, "systemctl show"):
		out.Stdout = "LoadState=loaded\nActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no\n"
		if s.active {
			out.Stdout = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n"
		}
		if s.unknown {
			out.Stdout = "LoadState=not-found\nActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no\n"
		}
		if s.reload {
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
		s.reload = false
	}
	s.ran = append(s.ran, words)
	return out, nil
}

func places(t *testing.T) (Places, *systemd) {
	s := new(systemd)
	dir := t.TempDir()
	return Places{Arguments: dir + "/etc/rewind", Units: dir + "/units", Packaged: dir + "/packaged", Commands: s}, s
}

func nightly() Schedule {
	return Schedule{Name: "nightly", Calendar: "02:00", Spread: time.Hour, Program: "/var/lib/rewind/bin/rewind-1", Arguments: map[string]any{
		"action": "schedule", "calendar": "02:00", "spread": "3600", "volumes": []any{"/dat"}, "environment": map[string]any{"RESTIC_PASSWORD": "swordfish"},
	}}
}

// content is each file below the places, and its mode where others than root are kept from it.
func content(t *testing.T, p Places) map[string]string {
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

func TestSetAndUnset(t *testing.T) {
	p, systemd := places(t)
	r, err := p.Set(t.Context(), nightly(), true)
	if err != nil || !r.Changed || len(content(t, p)) != 0 || len(systemd.ran) != 0 {
		t.Errorf("a check changes %v, %q: %+v, %v", content(t, p), systemd.ran, r, err)
	}
	if r, err = p.Set(t.Context(), nightly(), false); err != nil || !r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	want := map[string]string{
		"etc/rewind/nightly.json 0600":                  "{\n  \"environment\": {\n    \"RESTIC_PASSWORD\": \"swordfish\"\n  },\n  \"name\": \"nightly\",\n  \"volumes\": [\n    \"/dat\"\n  ]\n}\n",
		"units/rewind-backup@nightly.timer.d/when.conf": made + "[Timer]\nOnCalendar=\nOnCalendar=02:00\nRandomizedDelaySec=3600\nFixedRandomDelay=true\n",
		"units/rewind-backup@.timer":                    timerText,
		"units/rewind-backup@.service":                  strings.ReplaceAll(serviceText, "%%", "%"),
	}
	want["units/rewind-backup@.service"] = strings.Replace(want["units/rewind-backup@.service"], "%s", "/var/lib/rewind/bin/rewind-1", 1)
	if diff := cmp.Diff(want, content(t, p)); diff != "" {
		t.Error(diff)
	}
	timer := "rewind-backup@nightly.timer"
	if diff := cmp.Diff([]string{"systemctl --quiet daemon-reload", "systemctl --quiet clean --what=state " + timer,
		"systemctl --quiet enable " + timer, "systemctl --quiet start " + timer}, systemd.ran); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(r.Diff.After, "swordfish") || !strings.Contains(r.Diff.After, `volumes: ["/dat"]`) || r.Diff.Before != "" {
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
	if left := content(t, p); len(left) != 2 || left["units/rewind-backup@.timer"] == "" {
		t.Errorf("left: %v", left)
	}
	if r, err = p.Unset(t.Context(), "nightly", false); err != nil || r.Changed {
		t.Errorf("unset again: %+v, %v", r, err)
	}
}

// A run that was killed between the files and systemd is finished by the next.
func TestWhatSystemdDoesNotKnowYetIsAChange(t *testing.T) {
	p, systemd := places(t)
	for _, lose := range []func(){func() { systemd.active = false }, func() { systemd.reload = true }} {
		if _, err := p.Set(t.Context(), nightly(), false); err != nil {
			t.Fatal(err)
		}
		lose()
		if r, err := p.Set(t.Context(), nightly(), false); err != nil || !r.Changed || !systemd.active || systemd.reload {
			t.Errorf("%+v, %v; systemd %+v", r, err, systemd)
		}
	}
}

// A time between the last run and now must not be taken as missed: the timer is stopped, and what systemd remembers
// forgotten, before it is started by its new times.
func TestAnotherCalendarBeginsNothing(t *testing.T) {
	p, systemd := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	systemd.ran = nil
	later := nightly()
	later.Calendar = "04:00"
	if _, err := p.Set(t.Context(), later, false); err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for _, words := range systemd.ran {
		verbs = append(verbs, strings.Fields(words)[2])
	}
	if got := strings.Join(verbs, " "); got != "stop daemon-reload clean enable start" {
		t.Errorf("%s", got)
	}
}

// What others can read, or write, is no place for secrets, or for what root does.
func TestWhoCanReadOrWriteTheArguments(t *testing.T) {
	p, _ := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	path := p.arguments("nightly")
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
	if _, err := p.Set(t.Context(), nightly(), false); !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), p.Arguments) {
		t.Errorf("%v", err)
	}
}

// Where the units are gone, by hand or with a package, what is left can be taken away all the same.
func TestUnsetWithoutUnits(t *testing.T) {
	p, systemd := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	systemd.unknown = true
	if r, err := p.Unset(t.Context(), "nightly", false); err != nil || !r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := os.Stat(p.arguments("nightly")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its secrets are still there: %v", err)
	}
}

// Where a package has the units, none hides them: not those from before it was installed either.
func TestAPackagesUnitsAreUsed(t *testing.T) {
	p, _ := places(t)
	if _, err := p.Set(t.Context(), nightly(), false); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(p.Packaged, 0o755), os.WriteFile(filepath.Join(p.Packaged, service), []byte("[Service]\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if r, err := p.Set(t.Context(), nightly(), false); err != nil || !r.Changed {
		t.Fatalf("%+v, %v", r, err)
	}
	for name := range content(t, p) {
		if strings.HasPrefix(name, "units/rewind-backup@.") {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestAnAdministratorsUnitIsLeftAlone(t *testing.T) {
	p, systemd := places(t)
	path := filepath.Join(p.Units, service)
	if err := errors.Join(os.MkdirAll(p.Units, 0o755), os.WriteFile(path, []byte("[Service]\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Set(t.Context(), nightly(), false); !errors.Is(err, fault.Exists) || !strings.Contains(err.Error(), path) || len(systemd.ran) > 0 {
		t.Errorf("%v; it ran %q", err, systemd.ran)
	}
}

func TestWhatCannotBeScheduled(t *testing.T) {
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

// The programs that a schedule names are found in its unit.
func TestTheUnitIsTheOneThatKeepsItsProgram(t *testing.T) {
	if unit := filepath.Join(On(nil).Units, service); unit != journey.ScheduleUnit {
		t.Error(unit)
	}
}

// A package's units do what those do that are written where there is no package.
func TestThePackagesUnitsAreTheSame(t *testing.T) {
	for file, text := range map[string]string{
		"rewind-backup@.service": fmt.Sprintf(serviceText, "/usr/sbin/"), "rewind-backup@.timer": timerText,
	} {
		packaged, err := os.ReadFile(filepath.Join("../../../packages/systemd", file))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(packaged), "\n")
		for line := range strings.Lines(strings.TrimPrefix(strings.ReplaceAll(text, "/usr/sbin/ ", "/usr/sbin/"), made)) {
			if !slices.Contains(lines, strings.TrimSuffix(line, "\n")) {
				t.Errorf("%s of the package has no %s", file, line)
			}
		}
	}
}
