package servicetest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/servicetest"
)

// server returns a server with a volume at /dat, its check, and a service that uses it, all of them down.
func server() *recorder {
	r := &recorder{f: servicetest.New()}
	const check = "systemd-fsck@dat.service"
	r.add("dat.mount", "inactive", "Requires", check, "After", check).Enabled = true
	r.add(check, "inactive").NoDefaults = true
	r.add("app.service", "inactive", "RequiresMountsFor", "/dat/app").Enabled = true
	return r
}

// exec notes the programs that a boot runs.
func (r *recorder) exec(unit string, argv []string) error {
	r.note("exec " + unit + ": " + strings.Join(argv, " "))
	return nil
}

func fails() error { return errors.New("broken") }

func TestBootStartsWhatIsEnabledInItsOrder(t *testing.T) {
	r := server()
	r.add("noauto.mount", "inactive")
	r.add("a.service", "inactive", "After", "z.service").Enabled = true
	r.add("early.service", "inactive").Enabled = true
	r.f.Change("early.service", func(u *servicetest.Unit) { u.NoDefaults = true })
	r.add("z.service", "inactive", "Wants", "helper.service").Enabled = true
	r.add("helper.service", "inactive")
	r.add("off.service", "inactive")
	r.add("dat-sub.mount", "inactive").Enabled = true
	r.f.Boot(t.TempDir(), r.exec)
	wantList(t, r.take(), "start early.service", "start systemd-fsck@dat.service", "start dat.mount",
		"start dat-sub.mount", "start app.service", "start helper.service", "start z.service", "start a.service")
	wantStates(t, r.f, "local-fs.target active multi-user.target active noauto.mount inactive off.service inactive")
}

func TestBootRunsTheGuardBeforeWhatRequiresIt(t *testing.T) {
	r := server()
	r.add("var.mount", "inactive").Enabled = true
	r.add("a.mount", "inactive").Enabled = true
	dir := unitDir(t, guardFiles("dat.mount", "systemd-fsck@dat.service", "app.service", "none.mount"))
	for range 2 {
		r.f.Boot(dir, r.exec)
		wantList(t, r.take(), "start a.mount", "start var.mount", "exec rewind-guard.service: /opt/my-tools/rewind guard",
			"start systemd-fsck@dat.service", "start dat.mount", "start app.service",
			"exec rewind-resume.service: /opt/my-tools/rewind resume")
		wantStates(t, r.f, "rewind-guard.service active rewind-resume.service active")
	}
}

// fstab with x-systemd.automount: the automount is part of local-fs.target, and the mount comes when it is asked for.
func TestAnAutomountStartsBeforeItsMount(t *testing.T) {
	r := server()
	r.add("home.automount", "inactive").Enabled = true
	r.add("home.mount", "inactive")
	r.add("home-a.automount", "inactive").Enabled = true
	r.add("-.mount", "active").Enabled = true
	r.f.Boot(t.TempDir(), r.exec)
	wantList(t, r.take(), "start -.mount", "start home.automount", "start home.mount", "start home-a.automount",
		"start systemd-fsck@dat.service", "start dat.mount", "start app.service")
	r = server()
	r.add("home.automount", "inactive").OnStart = fails
	r.f.Change("home.automount", func(u *servicetest.Unit) { u.Enabled = true })
	r.add("home.mount", "inactive", "Requires", "home.automount")
	r.f.Boot(t.TempDir(), r.exec)
	wantStates(t, r.f, "home.automount failed home.mount inactive app.service inactive")
}

// resume is like rewind-resume.service: it starts and stops units while the server still boots.
func TestAProgramMayUseSystemdDuringTheBoot(t *testing.T) {
	r := server()
	r.add("stopped.service", "inactive")
	r.add("zz.service", "inactive").Enabled = true
	dir := unitDir(t, guardFiles("stopped.service"))
	r.f.Boot(dir, func(unit string, argv []string) error {
		if unit != "rewind-resume.service" {
			return nil
		}
		s := service.On(r.f.Connect(nil), "", "", "")
		failures, err := s.Start(t.Context(), service.Plan{Active: []string{"stopped.service", "zz.service"}})
		if err != nil || len(failures) > 0 {
			t.Errorf("%v, %v", failures, err)
		}
		return s.Forget(t.Context(), "rewind-guard.service")
	})
	wantStates(t, r.f, "stopped.service active zz.service active rewind-resume.service active multi-user.target active")
	if got := r.f.Result("rewind-resume.service"); got != "done" {
		t.Error(got)
	}
}

func TestBootAfterAFailure(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(r *recorder) map[string]string
		want    string
		result  string // of app.service
	}{
		{"a guard that fails", func(*recorder) map[string]string { return guardFiles("app.service") },
			"rewind-guard.service failed app.service inactive dat.mount active local-fs.target active", "dependency"},
		{"a guard that does not exist", func(*recorder) map[string]string {
			return map[string]string{"app.service.d/rewind-guard.conf": dropInText}
		}, "app.service inactive dat.mount active", "dependency"},
		{"a mount whose guard does not exist", func(*recorder) map[string]string {
			return map[string]string{"dat.mount.d/rewind-guard.conf": dropInText}
		}, "app.service inactive dat.mount inactive local-fs.target inactive", "dependency"},
		{"after what fails", func(r *recorder) map[string]string {
			r.add("bad.service", "inactive", "Before", "app.service").OnStart = fails
			r.f.Change("bad.service", func(u *servicetest.Unit) { u.Enabled = true })
			return nil
		}, "bad.service failed app.service active", "done"},
		{"a mount that fails: emergency mode", func(r *recorder) map[string]string {
			r.add("srv.mount", "inactive").OnStart = fails
			r.f.Change("srv.mount", func(u *servicetest.Unit) { u.Enabled = true })
			r.add("early.service", "inactive").NoDefaults = true
			r.f.Change("early.service", func(u *servicetest.Unit) { u.Enabled = true })
			return guardFiles()
		}, "srv.mount failed local-fs.target inactive app.service inactive early.service active " +
			"dat.mount active rewind-resume.service inactive", "dependency"},
		{"a mount with nofail that fails", func(r *recorder) map[string]string {
			r.f.Change("dat.mount", func(u *servicetest.Unit) { u.OnStart, u.NoFail = fails, true })
			r.add("other.service", "inactive").Enabled = true
			return nil
		}, "dat.mount failed local-fs.target active app.service inactive other.service active", "dependency"},
		{"a mount above a mount", func(r *recorder) map[string]string {
			r.f.Change("dat.mount", func(u *servicetest.Unit) { u.OnStart, u.NoFail = fails, true })
			r.add("dat-sub.mount", "inactive").NoFail = true
			r.f.Change("dat-sub.mount", func(u *servicetest.Unit) { u.Enabled = true })
			return nil
		}, "dat.mount failed dat-sub.mount inactive local-fs.target active", "dependency"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := server()
			dir := unitDir(t, c.prepare(r))
			r.f.Boot(dir, func(unit string, argv []string) error {
				if c.name == "a guard that fails" && unit == "rewind-guard.service" {
					return errors.New("status 1")
				}
				return nil
			})
			wantStates(t, r.f, c.want)
			if got := r.f.Result("app.service"); got != c.result {
				t.Errorf("app.service: %q, want %q", got, c.result)
			}
		})
	}
}

// A mount above the program of the guard would wait for the guard, and the guard for it.
func TestBootPanicsAtACycle(t *testing.T) {
	r := server()
	r.add("opt.mount", "inactive").Enabled = true
	dir := unitDir(t, guardFiles("opt.mount"))
	defer func() {
		text, _ := recover().(string)
		if !strings.Contains(text, "opt.mount -> rewind-guard.service -> opt.mount") {
			t.Errorf("it panics with %q", text)
		}
		wantList(t, r.f.Up()) // a lock that is held would block here
	}()
	r.f.Boot(dir, r.exec)
}

func TestThePowerMayFailDuringABoot(t *testing.T) {
	r := server()
	dir := unitDir(t, guardFiles("dat.mount"))
	r.f.Boot(dir, func(unit string, _ []string) error { r.f.PowerOff(); return nil })
	wantList(t, r.f.Up())
	r.take()
	r.f.Boot(dir, r.exec)
	if done := r.take(); !slices.Contains(done, "start app.service") {
		t.Error(done)
	}
}

// systemd starts what a unit needs, and not what those need that run already. But it looks whether all of it exists.
func TestAStartEndsAtUnitsThatRun(t *testing.T) {
	r := server()
	r.add("ssh.service", "inactive")
	r.f.Boot(t.TempDir(), r.exec)
	b := r.f.Connect(nil)
	_, _ = b.Stop(t.Context(), "dat.mount")
	wantStates(t, r.f, "app.service active local-fs.target active dat.mount inactive")
	r.take()
	_ = r.f.AdminStart("ssh.service")
	wantList(t, r.take(), "start ssh.service")
	_ = r.f.AdminStart("app.service")
	wantList(t, r.take(), "start dat.mount")
	r.f.AdminStop("dat.mount")
	wantList(t, r.take(), "stop app.service", "stop dat.mount")
	wantStates(t, r.f, "local-fs.target inactive sysinit.target active ssh.service active")
	_ = r.f.AdminStart("dat.mount")
	r.f.Change("dat.mount", func(u *servicetest.Unit) { u.Deps["Requires"] = []string{"none.service"} })
	if err := r.f.AdminStart("app.service"); !bus.IsError(err, bus.NoSuchUnit) {
		t.Errorf("got %v", err)
	}
}

// In emergency mode an administrator who starts a service has systemd try the mounts again.
func TestAStartAfterEmergencyModeMakesTheMounts(t *testing.T) {
	r := server()
	mount := func() error { return errors.New("no such device") }
	r.f.Change("dat.mount", func(u *servicetest.Unit) { u.OnStart = func() error { return mount() } })
	r.add("ssh.service", "inactive")
	r.f.Boot(t.TempDir(), r.exec)
	_ = r.f.AdminStart("ssh.service")
	wantStates(t, r.f, "sysinit.target inactive ssh.service inactive dat.mount failed")
	mount = func() error { return nil }
	_ = r.f.AdminStart("ssh.service")
	wantStates(t, r.f, "sysinit.target active local-fs.target active ssh.service active dat.mount active")
}
