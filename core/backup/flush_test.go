package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeDevice is a device whose syncfs returns only when release has a value or is closed.
type fakeDevice struct {
	release chan error
	writing atomic.Bool  // each poll finds one more sector written
	polls   atomic.Int64 // how often sectorsWritten was called
	sectors atomic.Int64
}

func (d *fakeDevice) flusher() flusher {
	wait := func(int) error { return <-d.release }
	return flusher{syncfs: wait, close: (*os.File).Close, tick: time.Millisecond, sectorsWritten: func(int) string {
		d.polls.Add(1)
		if d.writing.Load() {
			d.sectors.Add(1)
		}
		return strconv.FormatInt(d.sectors.Load(), 10)
	}}
}

// waitForPolls waits until the device has been polled n times more.
func (d *fakeDevice) waitForPolls(t *testing.T, n int64) {
	t.Helper()
	timeout := time.After(time.Minute)
	for target := d.polls.Load() + n; d.polls.Load() < target; {
		select {
		case <-timeout:
			t.Fatal("the device is not polled")
		case <-time.After(time.Millisecond):
		}
	}
}

// While the device writes, Flush reports, however long that takes. When the device has stopped, Flush no longer
// reports, and it returns at the end of ctx although syncfs still waits.
func TestFlushReportsOnlyWhileDeviceWrites(t *testing.T) {
	d := &fakeDevice{release: make(chan error)}
	defer close(d.release)
	d.writing.Store(true)
	ctx, giveUp := context.WithCancel(t.Context())
	var reports atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- d.flusher().flush(ctx, openDir(t, "/"), func() { reports.Add(1) }) }()
	d.waitForPolls(t, 100)
	if n := reports.Load(); n < 50 {
		t.Errorf("%d reports while the device wrote", n)
	}
	d.writing.Store(false)
	d.waitForPolls(t, 2) // so that the last sector has been reported
	before := reports.Load()
	d.waitForPolls(t, 50)
	if n := reports.Load() - before; n > 0 {
		t.Errorf("%d reports of a device that has stopped", n)
	}
	giveUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// openDir opens a directory until the end of the test.
func openDir(t *testing.T, dir string) *os.File {
	t.Helper()
	file, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// If the kernel has already reported a write error to another program, it reports the error only through descriptors
// that were open before that. So Flush must use a copy of the caller's descriptor and not open the directory itself.
func TestFlushSyncsCallersDescriptor(t *testing.T) {
	top, isCopy := openDir(t, "/"), false
	// Copies of a descriptor share its file status flags, so O_NONBLOCK marks them.
	if _, err := unix.FcntlInt(top.Fd(), unix.F_SETFL, unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	f := (&fakeDevice{}).flusher()
	f.syncfs = func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		isCopy = flags&unix.O_NONBLOCK != 0
		return err
	}
	if err := f.flush(t.Context(), top, func() {}); err != nil || !isCopy {
		t.Errorf("syncfs got a copy of the caller's descriptor: %v; error %v", isCopy, err)
	}
	if err := top.Sync(); errors.Is(err, os.ErrClosed) {
		t.Error("the caller's descriptor was closed")
	}
}

func TestFlushReturnsKernelError(t *testing.T) {
	d := &fakeDevice{release: make(chan error, 1)}
	d.release <- unix.EIO
	if err := d.flusher().flush(t.Context(), openDir(t, "/"), func() {}); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v", err)
	}
}

func TestSectorsWrittenGrow(t *testing.T) {
	dir := t.TempDir()
	top := openDir(t, dir)
	before := sectorsWritten(int(top.Fd()))
	if before == "" {
		t.Fatalf("%s has no device of its own: name another as TMPDIR", dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Flush(t.Context(), top, func() {}); err != nil {
		t.Fatal(err)
	}
	if after := sectorsWritten(int(top.Fd())); after == before {
		t.Errorf("%s sectors before and after a megabyte was flushed", before)
	}
}

func TestRepeatReportsUntilStopped(t *testing.T) {
	reports := 0
	stop := Repeat(func() { reports++ })
	stop()
	if reports != 1 {
		t.Errorf("%d reports", reports)
	}
}

// The caller may unmount the directory as soon as Flush has returned, so Flush closes its copy before that.
func TestFlushClosesItsDescriptorFirst(t *testing.T) {
	d := &fakeDevice{release: make(chan error)}
	close(d.release) // the device has written everything
	f, allowClose := d.flusher(), make(chan struct{})
	f.close = func(file *os.File) error {
		<-allowClose
		return file.Close()
	}
	ended, top := make(chan error, 1), openDir(t, "/")
	go func() { ended <- f.flush(t.Context(), top, func() {}) }()
	d.waitForPolls(t, 100)
	select {
	case err := <-ended:
		t.Fatalf("Flush returned while its copy was open: %v", err)
	default:
	}
	close(allowClose)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// On file systems of FUSE syncfs does nothing, and nobody would learn of it from Flush. virtiofs is not one of these.
func TestFileSystemThatFlushesNothingIsAWarning(t *testing.T) {
	for fsType, warned := range map[string]bool{
		"fuse": true, "fuse.sshfs": true, "fuseblk": true, "virtiofs": false, "ext4": false, "nfs4": false, "": false,
	} {
		got := unflushedWarning("/srv/backup", fsType)
		want := "the file system that holds /srv/backup (" + fsType + ") does not say "
		if warned != strings.HasPrefix(strings.Join(got, ""), want) || !warned && len(got) > 0 {
			t.Errorf("%q: %q", fsType, got)
		}
	}
}
