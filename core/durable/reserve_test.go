package durable_test

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/durable"
)

func TestReserveAllocatesNamelessFile(t *testing.T) {
	dir := t.TempDir()
	f, err := durable.Reserve(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 < 1<<20 || st.Nlink != 0 {
		t.Errorf("%d bytes, %d names: %v", st.Blocks*512, st.Nlink, err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the directory holds %q", got)
	}
	free, err := durable.Free(dir)
	if more, moreErr := durable.Reserve(dir, free+1<<30); moreErr == nil {
		more.Close()
		t.Errorf("%d bytes are free (%v), and so is a GiB more", free, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	// The kernel would return EFBIG for so many bytes, but Reserve refuses before it asks the kernel.
	if _, err := durable.Reserve(dir, 1<<60); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("more than is free: %v", err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the directory holds %q", got)
	}
}
