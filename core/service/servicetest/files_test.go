package servicetest_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/service/bus"
	"go.pcc.com/rewind/core/service/servicetest"
)

const (
	guardText = `# Made by a test.
[Unit]
Description=Rewind: finish a rollback
DefaultDependencies=no
RequiresMountsFor=/var/lib/rewind /opt/my-tools
After=local-fs-pre.target systemd-udevd.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/my-tools/rewind guard
`
	resumeText = `[Unit]
After=local-fs.target dbus.service rewind-guard.service

[Service]
Type=exec
ExecStart=/opt/my-tools/rewind resume

[Install]
WantedBy=none.target
`
	dropInText = "[Unit]\nRequires=rewind-guard.service\nAfter=rewind-guard.service\n"
)

// unitDir makes a directory of units. A file whose text begins with "-> " is a symbolic link.
func unitDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeUnits(t, dir, files)
	return dir
}

func writeUnits(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && text[:3] == "-> " {
			err = os.Symlink(text[3:], path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// guardFiles are the files that a rollback leaves while it is under way, with drop-ins for units.
func guardFiles(units ...string) map[string]string {
	files := map[string]string{
		"rewind-guard.service":                          guardText,
		"rewind-resume.service":                         resumeText,
		"local-fs.target.wants/rewind-guard.service":    "-> ../rewind-guard.service",
		"multi-user.target.wants/rewind-resume.service": "-> ../rewind-resume.service",
	}
	for _, unit := range units {
		files[unit+".d/rewind-guard.conf"] = dropInText
	}
	return files
}

// property returns a property that all types of units have.
func property(t *testing.T, f *servicetest.Fake, unit, name string) any {
	t.Helper()
	all, err := f.Connect(nil).UnitProperties(t.Context(), unit)
	if err != nil {
		t.Fatal(err)
	}
	return all[name]
}

func names(t *testing.T, f *servicetest.Fake, unit, name string) []string {
	t.Helper()
	list, _ := property(t, f, unit, name).([]string)
	slices.Sort(list)
	return list
}

func loaded(t *testing.T, f *servicetest.Fake, pattern string) []string {
	t.Helper()
	list, err := f.Connect(nil).LoadedUnits(t.Context(), pattern)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestAUnitIsReadWhenSomebodyAsksForIt(t *testing.T) {
	f := servicetest.New()
	f.Add("var.mount", "active")
	f.Add(`opt-my\x2dtools.mount`, "active")
	f.Add("opt-my.mount", "active")
	dir := t.TempDir()
	f.ReadUnits(dir)
	if got := property(t, f, "rewind-guard.service", "LoadState"); got != "not-found" {
		t.Error(got)
	}
	writeUnits(t, dir, guardFiles())
	if got := property(t, f, "rewind-guard.service", "LoadState"); got != "loaded" {
		t.Error(got)
	}
	if got := property(t, f, "rewind-guard.service", "FragmentPath"); got != filepath.Join(dir, "rewind-guard.service") {
		t.Error(got)
	}
	wantList(t, names(t, f, "rewind-guard.service", "Requires"), `opt-my\x2dtools.mount`, "var.mount")
	wantList(t, names(t, f, "rewind-guard.service", "After"),
		"local-fs-pre.target", `opt-my\x2dtools.mount`, "systemd-udevd.service", "var.mount")
	wantList(t, names(t, f, "rewind-resume.service", "After"),
		"dbus.service", "local-fs.target", "rewind-guard.service", "sysinit.target")
	wantList(t, names(t, f, "rewind-resume.service", "WantedBy"))
	wantList(t, loaded(t, f, "rewind-*")) // no other unit refers to them
	files, err := f.Connect(nil).UnitFiles(t.Context(), "*.mount", "rewind-g*")
	if wantList(t, files, "rewind-guard.service"); err != nil {
		t.Error(err)
	}
}

func TestDropInsAreReadByAReload(t *testing.T) {
	f := servicetest.New()
	f.Add("app.service", "active")
	f.Add(`srv-my\x2dapp.mount`, "inactive")
	dir := t.TempDir()
	f.ReadUnits(dir)
	writeUnits(t, dir, guardFiles("app.service", `srv-my\x2dapp.mount`))
	wantList(t, names(t, f, "app.service", "Requires"))
	f.Unload(`srv-my\x2dapp.mount`)
	wantList(t, loaded(t, f, "*.mount"))
	wantList(t, names(t, f, `srv-my\x2dapp.mount`, "Requires"), "rewind-guard.service")
	wantList(t, names(t, f, "app.service", "Requires"))
	if err := f.Connect(nil).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantList(t, names(t, f, "app.service", "Requires"), "rewind-guard.service")
	wantList(t, names(t, f, "rewind-guard.service", "RequiredBy"), "app.service", `srv-my\x2dapp.mount`)
	wantList(t, loaded(t, f, "rewind-*"), "rewind-guard.service")
	f.PowerOff()
	wantList(t, names(t, f, "app.service", "Requires"))
	wantList(t, loaded(t, f, "rewind-*"))
}

// The guard is taken away as a rollback does it: the drop-ins, then what systemd knows, then the units.
func TestForgetUnloadsTheGuard(t *testing.T) {
	f := servicetest.New()
	f.Add("app.service", "active")
	dir := unitDir(t, guardFiles("app.service"))
	f.ReadUnits(dir)
	if err := f.AdminStart("app.service"); err != nil {
		t.Fatal(err)
	}
	wantStates(t, f, "rewind-guard.service active")
	if err := os.RemoveAll(filepath.Join(dir, "app.service.d")); err != nil {
		t.Fatal(err)
	}
	s := service.On(f.Connect(nil), "", "", "")
	if err := s.Forget(t.Context(), "rewind-guard.service"); err != nil {
		t.Fatal(err)
	}
	wantList(t, names(t, f, "app.service", "Requires"))
	wantList(t, loaded(t, f, "rewind-*"))
	wantStates(t, f, "app.service active")
}

func TestAnActiveUnitOutlivesItsFile(t *testing.T) {
	f := servicetest.New()
	dir := unitDir(t, guardFiles())
	f.ReadUnits(dir)
	b := f.Connect(nil)
	if got := result(b.Start(t.Context(), "rewind-guard.service", bus.UnitOnly)); got != "done" {
		t.Error(got)
	}
	if err := os.Remove(filepath.Join(dir, "rewind-guard.service")); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := property(t, f, "rewind-guard.service", "LoadState"); got != "not-found" {
		t.Error(got)
	}
	wantStates(t, f, "rewind-guard.service active")
	f.Add("app.service", "inactive", "Requires", "rewind-guard.service")
	if err := f.AdminStart("app.service"); !bus.IsError(err, bus.NoSuchUnit) {
		t.Errorf("got %v", err)
	}
	if got := result(b.Stop(t.Context(), "rewind-guard.service")); got != "done" {
		t.Error(got)
	}
}
