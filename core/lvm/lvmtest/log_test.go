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

// writing is a device-mapper on which a suspend of vg/file writes to vg/log, as the freeze of a file system does whose
// log lies there.
type writing struct{ lvm.Mapper }

// eager is a device-mapper beside which another LVM command loads an origin's tables anew once its snapshot is blank.
type eager struct {
	lvm.Mapper
	refresh func() error
}

func (e eager) Blank(device string, size int) error {
	return errors.Join(e.Mapper.Blank(device, size), e.refresh())
}

func TestASnapshotThatBecomesLiveWhileItIsMadeReadyIsRefused(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{{Name: "a"}, {Name: "as", Origin: "a"}}})
	l := f.LVM().On(func() (lvm.Mapper, error) {
		m, err := f.Mapper()
		return eager{m, func() error { return f.LVM().Refresh(t.Context(), "vg/a") }}, err
	})
	_, err := l.PrepareInstant(t.Context(), []lvm.Pair{{Origin: "vg-a", Snapshot: "vg-as"}}, nil, time.Minute)
	if !errors.Is(err, fault.Busy) {
		t.Errorf("got %v, want busy", err)
	}
}

const file, log = "vg-file", "vg-log"

func (w writing) Suspend(device string) func() error {
	suspend, held := w.Mapper.Suspend(device), w.Mapper.Held(log)
	if device != file {
		return suspend
	}
	return func() error {
		time.Sleep(20 * time.Millisecond) // long enough for a log that does not wait to be suspended first
		if stuck, err := held(); stuck || err != nil {
			return unix.EIO
		}
		return suspend()
	}
}

// The volume that a file system's log lies on stands still after the file system, which writes to it to the last, and
// goes on before it.
func TestALogIsSuspendedAfterItsFileSystem(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{
		{Name: "file"}, {Name: "log"}, {Name: "files", Origin: "file"}, {Name: "logs", Origin: "log"},
	}})
	l := f.LVM().On(func() (lvm.Mapper, error) {
		m, err := f.Mapper()
		return writing{m}, err
	})
	pairs := []lvm.Pair{{Origin: file, Snapshot: "vg-files"}, {Origin: log, Snapshot: "vg-logs", Log: true}}
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
		if device == file || device == log {
			order = append(order, command)
		}
	}
	want := []string{
		"device-mapper suspend " + file, "device-mapper suspend " + log,
		"device-mapper resume " + log, "device-mapper resume " + file,
	}
	if !slices.Equal(order, want) {
		t.Errorf("got  %q\nwant %q", order, want)
	}
}
