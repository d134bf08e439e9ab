package lvmtest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// fileWritesToLog is a Mapper on which the suspend of vg/file needs vg/log, and fails if that is suspended already. It
// acts like a file system on vg/file whose log lies on vg/log, and which writes to its log when it is frozen.
type fileWritesToLog struct{ lvm.Mapper }

// refreshAfterBlank is a Mapper on which another LVM command refreshes the origin as soon as the COW space of its
// snapshot is blanked.
type refreshAfterBlank struct {
	lvm.Mapper
	refresh func() error
}

func (e refreshAfterBlank) Blank(device string, size int) error {
	return errors.Join(e.Mapper.Blank(device, size), e.refresh())
}

func TestPrepareInstantRefusesSnapshotMadeLiveMeanwhile(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{
		{Name: "a"}, {Name: "as", Origin: "a", Tags: []string{"mine"}},
	}})
	l := f.LVM().On(func() (lvm.Mapper, error) {
		m, err := f.Mapper()
		return refreshAfterBlank{m, func() error { return f.LVM().Refresh(t.Context(), "vg/a") }}, err
	})
	pairs := []lvm.SnapshotPair{{VG: "vg", Origin: "a", Snapshot: "as", Tag: "mine"}}
	_, err := l.PrepareInstant(t.Context(), pairs, nil, time.Minute)
	if !errors.Is(err, fault.Busy) {
		t.Errorf("got %v, want busy", err)
	}
}

const fileDevice, logDevice = "vg-file", "vg-log"

func (w fileWritesToLog) Suspend(device string) func() error {
	suspend, isLogSuspended := w.Mapper.Suspend(device), w.Mapper.Held(logDevice)
	if device != fileDevice {
		return suspend
	}
	return func() error {
		time.Sleep(20 * time.Millisecond) // if the log did not wait for this suspend, it would be suspended by now
		if logSuspended, err := isLogSuspended(); logSuspended || err != nil {
			return unix.EIO
		}
		return suspend()
	}
}

// A file system writes to its log until it is suspended. So the volume of the log must be suspended after the volume of
// the file system, and resumed before it.
func TestLogIsSuspendedAfterAndResumedBeforeFileSystem(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{
		{Name: "file"}, {Name: "log"}, {Name: "files", Origin: "file", Tags: []string{"mine"}},
		{Name: "logs", Origin: "log", Tags: []string{"mine"}},
	}})
	l := f.LVM().On(func() (lvm.Mapper, error) {
		m, err := f.Mapper()
		return fileWritesToLog{m}, err
	})
	pairs := []lvm.SnapshotPair{
		{VG: "vg", Origin: "file", Snapshot: "files", Tag: "mine"},
		{VG: "vg", Origin: "log", Snapshot: "logs", Tag: "mine", Log: true},
	}
	i, err := l.PrepareInstant(t.Context(), pairs, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Take(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, argv := range f.Commands() {
		command := strings.Join(argv, " ")
		device := strings.TrimPrefix(strings.TrimPrefix(command, "device-mapper suspend "), "device-mapper resume ")
		if device == fileDevice || device == logDevice {
			order = append(order, command)
		}
	}
	want := []string{
		"device-mapper suspend " + fileDevice, "device-mapper suspend " + logDevice,
		"device-mapper resume " + logDevice, "device-mapper resume " + fileDevice,
	}
	if !slices.Equal(order, want) {
		t.Errorf("got  %q\nwant %q", order, want)
	}
}
