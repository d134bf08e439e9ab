package proc

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestUnifiedHierarchy(t *testing.T) {
	for file, want := range map[string]string{
		"cgroup.controllers": "", "unified/cgroup.controllers": "unified", "systemd/cgroup.procs": "none",
	} {
		mount := t.TempDir()
		path := filepath.Join(mount, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		wanted := filepath.Join(mount, want)
		if want == "none" {
			wanted = ""
		}
		if got := UnifiedHierarchy(mount); got != wanted {
			t.Errorf("%s: %q, want %q", file, got, wanted)
		}
	}
}
