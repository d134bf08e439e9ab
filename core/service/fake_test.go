package service

import (
	"testing"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/service/servicetest"
)

// systemdOn returns the Systemd of a process in own.service, on a server with empty /proc and control groups.
func systemdOn(t *testing.T, f *servicetest.Fake) *Systemd {
	t.Helper()
	return On(f.Connect(nil), filesystem.Proc(t.TempDir()), t.TempDir(), "own.service")
}
