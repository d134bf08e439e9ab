package service

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.pcc.com/rewind/core/fault"
)

// debianPostgreSQL is PostgreSQL as Debian packages it: a service that does nothing itself, and an instance for each
// cluster. One of the two clusters is down.
func debianPostgreSQL() *fakeBus {
	f := newFakeBus()
	f.add("postgresql.service", "active",
		"ConsistsOf", "postgresql@15-main.service", "ConsistsOf", "postgresql@15-old.service",
		"After", "postgresql@15-main.service", "Wants", "postgresql@15-main.service", "RequiredBy", "multi-user.target")
	f.add("postgresql@15-main.service", "active", "After", "network.target")
	f.add("postgresql@15-old.service", "inactive")
	f.add("multi-user.target", "active")
	return f
}

func TestPlanOfDebiansPostgreSQL(t *testing.T) {
	p, err := debianPostgreSQL().systemd(t).Plan(t.Context(), []string{"postgresql"})
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		Named:  []string{"postgresql.service"},
		Stop:   []string{"postgresql@15-old.service", "postgresql.service", "postgresql@15-main.service"},
		Active: []string{"postgresql@15-main.service", "postgresql.service"},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
}

func TestPlanOrdersStopsAndStarts(t *testing.T) {
	f := newFakeBus()
	f.add("db.service", "active", "RequiredBy", "app.service", "TriggeredBy", "db.socket", "After", "db.socket",
		"TriggeredBy", "db.path", "RequiredBy", "dat.mount", "BoundBy", "gone.slice")
	f.add("app.service", "active", "After", "db.service", "TriggeredBy", "app.timer", "After", "web.service",
		"PropagatesStopTo", "side.service")
	f.add("web.service", "active", "RequisiteOf", "app.service", "After", "db.service")
	f.add("side.service", "activating")
	f.add("db.socket", "active")
	f.add("db.path", "active")
	f.add("app.timer", "active")
	p, err := f.systemd(t).Plan(t.Context(), []string{"web", "db.service"})
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		Named:  []string{"web.service", "db.service"},
		Stop:   []string{"app.timer", "db.path", "db.socket", "side.service", "app.service", "web.service", "db.service"},
		Active: []string{"db.socket", "db.service", "web.service", "app.service", "side.service", "db.path", "app.timer"},
		Begun:  []string{"side.service"},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
}

func TestPlanActiveHasUnitsThatRunOrWillRun(t *testing.T) {
	for _, c := range []struct {
		active, job string
		want        bool
	}{
		{"active", "", true}, {"reloading", "", true}, {"activating", "", true}, {"refreshing", "", true},
		{"inactive", "", false}, {"failed", "", false}, {"deactivating", "", false}, {"deactivating", "stop", false},
		{"deactivating", "restart", true}, {"inactive", "start", true},
	} {
		f := newFakeBus()
		f.add("a.service", c.active).job = c.job
		p, err := f.systemd(t).Plan(t.Context(), []string{"a"})
		if err != nil || (len(p.Active) == 1) != c.want || len(p.Stop) != 1 {
			t.Errorf("%s, job %q: %+v, %v", c.active, c.job, p, err)
		}
	}
}

func TestPlanFollowsAnAlias(t *testing.T) {
	f := newFakeBus()
	f.add("mariadb.service", "active")
	f.add("mysql.service", "active", "alias of", "mariadb.service")
	f.add("ssh.service", "active")
	f.add("secure.service", "active", "alias of", "ssh.service")
	p, err := f.systemd(t).Plan(t.Context(), []string{"mysql", "mariadb"})
	if err != nil || len(p.Stop) != 1 || p.Stop[0] != "mariadb.service" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := f.systemd(t).Plan(t.Context(), []string{"secure"}); !errors.Is(err, fault.BadArguments) {
		t.Errorf("an alias of ssh: %v", err)
	}
}

// A unit that systemd stops when no other unit needs it must be started again together with the unit that needs it.
func TestPlanIncludesWhatBecomesUnneeded(t *testing.T) {
	f := newFakeBus()
	f.add("app.service", "active", "Requires", "helper.service", "Wants", "other.service", "After", "helper.service")
	f.add("helper.service", "active").flags["StopWhenUnneeded"] = true
	f.add("other.service", "active")
	f.add("db.service", "active", "RequiredBy", "app.service")
	s := f.systemd(t)
	p := mustPlan(t, s, "db")
	want := Plan{
		Named:   []string{"db.service"},
		Stop:    []string{"app.service", "helper.service", "db.service"},
		Active:  []string{"db.service", "app.service", "helper.service"},
		Pulling: []string{"app.service"},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Start(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.log, "start with all it wants app.service") || !slices.Contains(f.log, "start db.service") {
		t.Error(f.log)
	}
}

func TestPlanNamesAllProblemsAtOnce(t *testing.T) {
	f := newFakeBus()
	f.add("good.service", "active")
	f.add("dbus.service", "active")
	f.add("auditd.service", "active").flags["RefuseManualStop"] = true
	f.add("once.service", "active").flags["RefuseManualStart"] = true
	f.add("run-u7.service", "active").flags["Transient"] = true
	f.add("masked.service", "active").load = "masked"
	f.add("asleep.service", "inactive").load = "masked" // nothing to stop
	f.add("broken.service", "inactive").load = "bad-setting"
	names := []string{
		"good", "no-such", "broken", "dbus", "auditd", "once", "run-u7", "masked", "asleep", "own",
		"session-3.scope", "dat.mount", "postgresql@", "a/b", "-x", "a\nb", "",
	}
	_, err := f.systemd(t).Plan(t.Context(), names)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"no unit no-such.service (not-found)", "no unit broken.service", "dbus.service is never stopped",
		"auditd.service cannot be stopped", "once.service could not be started again",
		"run-u7.service could not be started again", "masked.service could not be started again",
		"own.service is never stopped", "session-3.scope", "dat.mount", "postgresql@.service", "a/b", "-x", `a\nb`,
		`".service" is not`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "good") || strings.Contains(err.Error(), "asleep") {
		t.Errorf("it names a unit that is no problem: %v", err)
	}
	if len(f.log) != 0 {
		t.Errorf("the plan changed something: %v", f.log)
	}
}

func TestPlanFaultCodes(t *testing.T) {
	f := newFakeBus()
	f.add("a.service", "active", "RequiredBy", "ssh.service", "TriggeredBy", "sleeping.socket")
	f.add("ssh.service", "active")
	f.add("b.service", "active", "UpheldBy", "multi-user.target")
	f.add("multi-user.target", "active")
	f.add("c.service", "active", "UpheldBy", "keeper.service")
	f.add("keeper.service", "active")
	f.add("d.service", "active", "RequiredBy", "sshd.service")
	f.add("sshd.service", "inactive")
	for name, want := range map[string]fault.Code{
		"a": fault.Busy, "b": fault.Busy, "no-such": fault.NotFound, "ssh": fault.BadArguments,
	} {
		if _, err := f.systemd(t).Plan(t.Context(), []string{name}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	p, err := f.systemd(t).Plan(t.Context(), []string{"c", "d"})
	if diff := cmp.Diff([]string{"c.service", "d.service", "keeper.service"}, p.Active); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if slices.Index(p.Stop, "keeper.service") > slices.Index(p.Stop, "c.service") {
		t.Errorf("keeper.service would start c.service again: %v", p.Stop)
	}
}

func TestProtected(t *testing.T) {
	s := newFakeBus().systemd(t)
	for unit, want := range map[string]bool{
		"ssh.service": true, "sshd@1-10.0.0.2:22-10.0.0.1:5.service": true, "session-12.scope": true,
		"user@1000.service": true, "systemd-journald.service": true, "rewind-x.service": true, "own.service": true,
		"init.scope": true, "dbus.socket": true,
		"postgresql.service": false, "sshfs.service": false, "": false,
	} {
		if got := s.Protected(unit); got != want {
			t.Errorf("%q: %v", unit, got)
		}
	}
}

func FuzzUnitName(f *testing.F) {
	for _, name := range []string{
		"postgresql", "postgresql@15-main.service", "a.b", "@.service", "x@", `a\x2db.socket`, "é",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		full := fullName(name)
		if nameProblem(full) == "" && strings.ContainsAny(full, "/ \n\x00") {
			t.Errorf("took %q", full)
		}
	})
}

// An unmount stops the units that are bound to the mount, and a mount does not start them.
func TestBoundToReturnsActiveUnitsThatMayBeStopped(t *testing.T) {
	f := newFakeBus()
	f.add("dat.mount", "active", "BoundBy", "share.service", "BoundBy", "down.service", "BoundBy", "dat-sub.mount",
		"BoundBy", "own.service", "RequiredBy", "app.service")
	f.add("srv.mount", "active", "BoundBy", "share.service")
	f.add("share.service", "active")
	f.add("down.service", "inactive")
	f.add("dat-sub.mount", "active")
	f.add("own.service", "active")
	f.add("app.service", "active")
	got, err := f.systemd(t).BoundTo(t.Context(), []string{"dat.mount", "srv.mount", "none.mount"})
	if diff := cmp.Diff([]string{"share.service"}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}
