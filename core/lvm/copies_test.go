package lvm_test

import (
	"errors"
	"slices"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

func TestCopyDirs(t *testing.T) {
	said := "archive_dir=\"/srv/a b\"\nbackup_dir=\"/etc/lvm/backup\"\n"
	dirs, err := lvm.New(prints{stdout: said}).CopyDirs(t.Context())
	if err != nil || !slices.Equal(dirs, []string{"/srv/a b", "/etc/lvm/backup"}) {
		t.Errorf("%q, %v", dirs, err)
	}
	for _, said := range []string{"", "archive_dir=\"/srv\"\n", "archive_dir=srv\nbackup_dir=\"/b\"\n"} {
		if dirs, err := lvm.New(prints{stdout: said}).CopyDirs(t.Context()); !errors.Is(err, fault.CommandFailed) {
			t.Errorf("%q: %q, %v", said, dirs, err)
		}
	}
}
