package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// device is one whose syncfs ends at release only.
type device struct {
	release chan error
	works   atomic.Bool
	looked  atomic.Int64 // how often it was looked at, and what it has written if it works
	wrote   atomic.Int64
}

func (d *device) flusher() flusher {
	wait := func(int) error { return <-d.release }
	return flusher{sync: wait, close: (*os.File).Close, tick: time.Millisecond, written: func(int) string {
		d.looked.Add(1)
		if d.works.Load() {
			d.wrote.Add(1)
		}
		return strconv.FormatInt(d.wrote.Load(), 10)
	}}
}

// lookedAt waits until it was looked at n times more.
func (d *device) lookedAt(t *testing.T, n int64) {
	t.Helper()
	late := time.After(time.Minute)
	for until := d.looked.Load() + n; d.looked.Load() < until; {
		select {
		case <-late:
			t.Fatal("the device is not looked at")
		case <-time.After(time.Millisecond):
		}
	}
}

// A device that writes is at work, however long that takes. One that has stopped is silent, and who waits gives it up,
// although the kernel does not let go of what waits for it.
func TestFlushIsSilentWhenTheDeviceIs(t *testing.T) {
	d := &device{release: make(chan error)}
	defer close(d.release)
	d.works.Store(true)
	ctx, giveUp := context.WithCancel(t.Context())
	var reports atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- d.flusher().flush(ctx, opened(t, "/"), func() { reports.Add(1) }) }()
	d.lookedAt(t, 100)
	if n := reports.Load(); n < 50 {
		t.Errorf("%d reports while the device wrote", n)
	}
	d.works.Store(false)
	d.lookedAt(t, 2) // what it had written has been told
	before := reports.Load()
	d.lookedAt(t, 50)
	if n := reports.Load() - before; n > 0 {
		t.Errorf("%d reports of a device that has stopped", n)
	}
	giveUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// opened opens a directory, as whoever is going to write below it does before that.
func opened(t *testing.T, dir string) *os.File {
	t.Helper()
	file, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// What another program's syncfs was told of already the kernel says only to those who had the directory open before.
func TestFlushAsksByWhatWasOpenBefore(t *testing.T) {
	top, same := opened(t, "/"), false
	if _, err := unix.FcntlInt(top.Fd(), unix.F_SETFL, unix.O_NONBLOCK); err != nil { // all its copies show that, no other
		t.Fatal(err)
	}
	f := (&device{}).flusher()
	f.sync = func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		same = flags&unix.O_NONBLOCK != 0
		return err
	}
	if err := f.flush(t.Context(), top, func() {}); err != nil || !same {
		t.Errorf("it was asked by what was open before: %v, %v", same, err)
	}
	if err := top.Sync(); errors.Is(err, os.ErrClosed) {
		t.Error("what is the caller's was closed")
	}
}

func TestFlushEndsWithTheKernelsWord(t *testing.T) {
	d := &device{release: make(chan error, 1)}
	d.release <- unix.EIO
	if err := d.flusher().flush(t.Context(), opened(t, "/"), func() {}); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v", err)
	}
}

// What the device of a directory has written is seen.
func TestWritten(t *testing.T) {
	dir := t.TempDir()
	top := opened(t, dir)
	before := written(int(top.Fd()))
	if before == "" {
		t.Fatalf("%s has no device of its own: name another as TMPDIR", dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Flush(t.Context(), top, func() {}); err != nil {
		t.Fatal(err)
	}
	if after := written(int(top.Fd())); after == before {
		t.Errorf("%s sectors before and after a megabyte was flushed", before)
	}
}

// What has a limit of its own and is silent is told to be at work until it has ended, and not afterwards.
func TestRepeat(t *testing.T) {
	reports := 0
	stop := Repeat(func() { reports++ })
	stop()
	if reports != 1 {
		t.Errorf("%d reports", reports)
	}
}

// Whoever waits may unmount the directory at once: Flush returns when nothing of this process has it open any more.
func TestFlushLeavesNothingOpen(t *testing.T) {
	d := &device{release: make(chan error)}
	close(d.release) // the device has written everything
	f, let := d.flusher(), make(chan struct{})
	f.close = func(file *os.File) error {
		<-let
		return file.Close()
	}
	ended, top := make(chan error, 1), opened(t, "/")
	go func() { ended <- f.flush(t.Context(), top, func() {}) }()
	d.lookedAt(t, 100)
	select {
	case err := <-ended:
		t.Fatalf("it returned while the directory was open: %v", err)
	default:
	}
	close(let)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
