package service

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/service/servicetest"
)

// A path unit that watches what is unmounted would start its unit at the unmount, and never again afterwards.
func TestWatchingNamesPathUnitsBelow(t *testing.T) {
	f := servicetest.New()
	watch := func(name, active string, paths ...string) {
		var list []any
		for _, path := range paths {
			list = append(list, []any{"PathChanged", path})
		}
		f.Add(name, active).Properties = map[string]any{"Paths": list}
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "dat"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "dat/www"), 0o700); err != nil {
		t.Fatal(err)
	}
	watch("deploy.path", "active", "/etc/hosts", "/dat/www")
	watch("point.path", "active", "/dat")
	watch("link.path", "active", filepath.Join(dir, "link/www/*.new"))
	watch("idle.path", "inactive", "/dat/www")
	watch("data.path", "active", "/data/www", "/srv")
	watch("systemd-ask-password-console.path", "active", "/dat/ask")
	f.Add("deploy.service", "active")
	s := systemdOn(t, f)
	for points, want := range map[string]string{
		"/srv/x /dat/": "deploy.path point.path", "/": "", "/other": "", filepath.Join(dir, "dat"): "link.path",
	} {
		got, err := s.Watching(t.Context(), strings.Fields(points))
		slices.Sort(got)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v %v, want %s", points, got, err, want)
		}
	}
}
