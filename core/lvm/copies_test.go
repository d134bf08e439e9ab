package lvm_test

import (
	"errors"
	"slices"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

func TestCopyDirsParsesLVMConfig(t *testing.T) {
	stdout := "archive_dir=\"/srv/a b\"\nbackup_dir=\"/etc/lvm/backup\"\n"
	dirs, err := lvm.New(fixedOutput{stdout: stdout}).CopyDirs(t.Context())
	if err != nil || !slices.Equal(dirs, []string{"/srv/a b", "/etc/lvm/backup"}) {
		t.Errorf("%q, %v", dirs, err)
	}
	for _, stdout := range []string{"", "archive_dir=\"/srv\"\n", "archive_dir=srv\nbackup_dir=\"/b\"\n"} {
		if dirs, err := lvm.New(fixedOutput{stdout: stdout}).CopyDirs(t.Context()); !errors.Is(err, fault.CommandFailed) {
			t.Errorf("%q: %q, %v", stdout, dirs, err)
		}
	}
}
