package filesystem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

type runner struct {
	cmd command.Cmd
	err error
}

func (r *runner) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	r.cmd = c
	return command.Output{}, r.err
}

func TestMountDeviceRunsMount(t *testing.T) {
	for _, c := range []struct {
		spec MountSpec
		want string
	}{
		{MountSpec{Source: "/dev/vg00/dat", Point: "/dat"}, "mount -- /dev/vg00/dat /dat"},
		{MountSpec{Source: "/dev/vg00/dat", Point: "/dat", Type: "xfs", Options: []string{"rw", "noatime"}},
			"mount -t xfs -o rw,noatime -- /dev/vg00/dat /dat"},
		{MountSpec{Bind: "/dat/pg", Point: "/srv", Type: "xfs", Options: []string{"ro"}}, "mount -o bind,ro -- /dat/pg /srv"},
	} {
		r := &runner{}
		if err := MountDevice(t.Context(), r, c.spec); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.cmd.Argv, " "); got != c.want || !r.cmd.Changes {
			t.Errorf("%+v:\n%s, changes %v\n%s", c.spec, got, r.cmd.Changes, c.want)
		}
	}
	r := &runner{err: errors.New("bad superblock")}
	err := MountDevice(t.Context(), r, MountSpec{Source: "/dev/vg00/dat", Point: "/dat"})
	if !errors.Is(err, fault.MountFailed) || !strings.Contains(err.Error(), "/dat: bad superblock") {
		t.Errorf("got %v", err)
	}
}

func TestUnmountRefusesWhatIsNoMountPoint(t *testing.T) {
	err := Unmount(t.TempDir())
	if !errors.Is(err, fault.NotFound) && !errors.Is(err, fault.NotRoot) {
		t.Errorf("got %v", err)
	}
}

// The kernel's unmount does not return, and cannot be cancelled, while the device accepts no writes.
func TestUnmountOfEndsWithItsContext(t *testing.T) {
	real, begun, stuck := kernelUnmount, make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { <-begun; kernelUnmount = real; close(stuck) })
	kernelUnmount = func(string, int) error { close(begun); <-stuck; return nil }
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	root, ok := At(mounts, "/")
	if !ok {
		t.Fatal("/ is not mounted")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = UnmountOf(ctx, "/", root.Dev)
	if !errors.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "the unmount of / was not") ||
		fault.Of(err).Hint == "" {
		t.Errorf("got %v", err)
	}
}

func TestRestoreOptionsMountAsBefore(t *testing.T) {
	dat := Mount{Dev: Dev{253, 0}, Point: "/dat", Options: "rw,relatime", Super: "rw,seclabel,attr2,inode64,usrquota"}
	readOnly := Mount{Dev: Dev{253, 0}, Point: "/dat", Options: "ro,noatime", Super: "rw,data=ordered"}
	byExt4 := Mount{Dev: Dev{253, 0}, Point: "/dat", Options: "rw,relatime", Super: "ro,errors=remount-ro"}
	shutDown := byExt4
	shutDown.Super = "rw,emergency_ro,shutdown,errors=continue"
	other := []FstabEntry{{Spec: "/dev/no/such", Point: "/dat", Options: []string{"noatime"}}}
	for _, c := range []struct {
		name  string
		mount Mount
		fstab []FstabEntry
		want  string
	}{
		{"as the kernel shows it", dat, nil, "rw,relatime,inode64,usrquota"},
		{"read-only stays so", readOnly, nil, "ro,noatime,data=ordered"},
		{"fstab names another device", dat, other, "rw,relatime,inode64,usrquota"},
		{"ext4 itself made it read-only", byExt4, nil, "rw,relatime,errors=remount-ro"},
		{"ext4 itself shut it down", shutDown, nil, "rw,relatime,errors=continue"},
	} {
		if got := strings.Join(c.mount.RestoreOptions(c.fstab), ","); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestSnapshotOptions(t *testing.T) {
	quota := Mount{Options: "rw,relatime", Super: "rw,inode64,usrquota,pqnoenforce,noquota"}
	for _, c := range []struct {
		fstype  string
		origin  Mount
		preview bool
		want    string
	}{
		{"xfs", quota, false, "ro,noatime,nouuid,usrquota,pqnoenforce"},
		{"xfs", Mount{}, true, "ro,noatime,nosuid,nodev,nouuid,norecovery"},
		{"ext4", quota, false, "ro,noatime,errors=remount-ro"},
		{"ext2", quota, true, "ro,noatime,errors=remount-ro"},
		{"ext4", Mount{}, true, "ro,noatime,nosuid,nodev,errors=remount-ro,noload"},
		{"vfat", Mount{Options: "rw"}, true, "ro,noatime"},
		{"ext4", Mount{Options: "rw,nosuid,nodev,noexec,relatime"}, false,
			"ro,noatime,nosuid,nodev,noexec,errors=remount-ro"},
		{"xfs", Mount{Options: "rw,nosymfollow,nosuid"}, true, "ro,noatime,nosuid,nosymfollow,nouuid,norecovery"},
	} {
		if got := strings.Join(SnapshotOptions(c.fstype, c.origin, c.preview), ","); got != c.want {
			t.Errorf("%s, preview %v: %s, want %s", c.fstype, c.preview, got, c.want)
		}
	}
}
