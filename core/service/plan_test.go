package service

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/servicetest"
)

// debianPostgreSQL is PostgreSQL as Debian packages it: a service that does nothing itself, and an instance for each
// cluster. One of the two clusters is down.
func debianPostgreSQL() *servicetest.Fake {
	f := servicetest.New()
	f.Add("postgresql.service", "active",
		"ConsistsOf", "postgresql@15-main.service", "ConsistsOf", "postgresql@15-old.service",
		"After", "postgresql@15-main.service", "Wants", "postgresql@15-main.service", "RequiredBy", "multi-user.target")
	f.Add("postgresql@15-main.service", "active", "After", "network.target")
	f.Add("postgresql@15-old.service", "inactive")
	f.Add("multi-user.target", "active")
	return f
}

func TestPlanOfDebiansPostgreSQL(t *testing.T) {
	p, err := systemdOn(t, debianPostgreSQL()).Plan(t.Context(), []string{"postgresql"})
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
	f := servicetest.New()
	f.Add("db.service", "active", "RequiredBy", "app.service", "TriggeredBy", "db.socket", "After", "db.socket",
		"TriggeredBy", "db.path", "RequiredBy", "dat.mount", "BoundBy", "gone.slice")
	f.Add("app.service", "active", "After", "db.service", "TriggeredBy", "app.timer", "After", "web.service",
		"PropagatesStopTo", "side.service")
	f.Add("web.service", "active", "RequisiteOf", "app.service", "After", "db.service")
	f.Add("side.service", "activating")
	f.Add("db.socket", "active")
	f.Add("db.path", "active")
	f.Add("app.timer", "active")
	p, err := systemdOn(t, f).Plan(t.Context(), []string{"web", "db.service"})
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
		f := servicetest.New()
		f.Add("a.service", c.active).Job = c.job
		p, err := systemdOn(t, f).Plan(t.Context(), []string{"a"})
		if err != nil || (len(p.Active) == 1) != c.want || len(p.Stop) != 1 {
			t.Errorf("%s, job %q: %+v, %v", c.active, c.job, p, err)
		}
	}
}

func TestPlanFollowsAnAlias(t *testing.T) {
	f := servicetest.New()
	f.Add("mariadb.service", "active")
	f.Add("mysql.service", "active", "alias of", "mariadb.service")
	f.Add("ssh.service", "active")
	f.Add("secure.service", "active", "alias of", "ssh.service")
	p, err := systemdOn(t, f).Plan(t.Context(), []string{"mysql", "mariadb"})
	if err != nil || len(p.Stop) != 1 || p.Stop[0] != "mariadb.service" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := systemdOn(t, f).Plan(t.Context(), []string{"secure"}); !errors.Is(err, fault.BadArguments) {
		t.Errorf("an alias of ssh: %v", err)
	}
}

// A unit that systemd stops when no other unit needs it must be started again together with the unit that needs it.
func TestPlanIncludesWhatBecomesUnneeded(t *testing.T) {
	f := servicetest.New()
	f.Add("app.service", "active", "Requires", "helper.service", "Wants", "other.service", "After", "helper.service")
	f.Add("helper.service", "active").Flags["StopWhenUnneeded"] = true
	f.Add("other.service", "active")
	f.Add("db.service", "active", "RequiredBy", "app.service")
	s := systemdOn(t, f)
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
	if !slices.Contains(f.Log(), "start app.service with dependencies") || !slices.Contains(f.Log(), "start db.service") {
		t.Error(f.Log())
	}
}

func TestPlanNamesAllProblemsAtOnce(t *testing.T) {
	f := servicetest.New()
	f.Add("good.service", "active")
	f.Add("dbus.service", "active")
	f.Add("auditd.service", "active").Flags["RefuseManualStop"] = true
	f.Add("once.service", "active").Flags["RefuseManualStart"] = true
	f.Add("run-u7.service", "active").Flags["Transient"] = true
	f.Add("masked.service", "active").Load = "masked"
	f.Add("asleep.service", "inactive").Load = "masked" // nothing to stop
	f.Add("broken.service", "inactive").Load = "bad-setting"
	names := []string{
		"good", "no-such", "broken", "dbus", "auditd", "once", "run-u7", "masked", "asleep", "own",
		"session-3.scope", "dat.mount", "postgresql@", "a/b", "-x", "a\nb", "",
	}
	_, err := systemdOn(t, f).Plan(t.Context(), names)
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
	if len(f.Log()) != 0 {
		t.Errorf("the plan changed something: %v", f.Log())
	}
}

func TestPlanFaultCodes(t *testing.T) {
	f := servicetest.New()
	f.Add("a.service", "active", "RequiredBy", "ssh.service", "TriggeredBy", "sleeping.socket")
	f.Add("ssh.service", "active")
	f.Add("b.service", "active", "UpheldBy", "multi-user.target")
	f.Add("multi-user.target", "active")
	f.Add("c.service", "active", "UpheldBy", "keeper.service")
	f.Add("keeper.service", "active")
	f.Add("d.service", "active", "RequiredBy", "sshd.service")
	f.Add("sshd.service", "inactive")
	for name, want := range map[string]fault.Code{
		"a": fault.Busy, "b": fault.Busy, "no-such": fault.NotFound, "ssh": fault.BadArguments,
	} {
		if _, err := systemdOn(t, f).Plan(t.Context(), []string{name}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	p, err := systemdOn(t, f).Plan(t.Context(), []string{"c", "d"})
	if diff := cmp.Diff([]string{"c.service", "d.service", "keeper.service"}, p.Active); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if slices.Index(p.Stop, "keeper.service") > slices.Index(p.Stop, "c.service") {
		t.Errorf("keeper.service would start c.service again: %v", p.Stop)
	}
}

func TestProtected(t *testing.T) {
	s := systemdOn(t, servicetest.New())
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
	f := servicetest.New()
	f.Add("dat.mount", "active", "BoundBy", "share.service", "BoundBy", "down.service", "BoundBy", "dat-sub.mount",
		"BoundBy", "own.service", "RequiredBy", "app.service")
	f.Add("srv.mount", "active", "BoundBy", "share.service")
	f.Add("share.service", "active")
	f.Add("down.service", "inactive")
	f.Add("dat-sub.mount", "active")
	f.Add("own.service", "active")
	f.Add("app.service", "active")
	got, err := systemdOn(t, f).BoundTo(t.Context(), []string{"dat.mount", "srv.mount", "none.mount"})
	if diff := cmp.Diff([]string{"share.service"}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}
