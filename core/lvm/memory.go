package lvm

import (
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// lockMemory keeps all of this program in memory: a page of it that had to be
// read from a suspended volume, or from swap space on one, would never come. It
// also puts off the garbage collector.
func lockMemory() (unlock func(), err error) {
	percent := debug.SetGCPercent(-1)
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
		debug.SetGCPercent(percent)
		return nil, fault.New(fault.Unsupported, "this program cannot be locked into memory (mlockall: %w), so no "+
			"volume is suspended", err).
			WithHint("is memory short? free -m; a limit on locked memory (LimitMEMLOCK) does not bind root")
	}
	return func() {
		_ = unix.Munlockall()
		debug.SetGCPercent(percent)
	}, nil
}

// spareThreads has Go make so many threads, which it keeps, and takes instead of
// making one when the others wait in the kernel: a new one needs memory, which
// may only come free when swap space on a suspended volume takes something in.
func spareThreads(count int) {
	var all, ended sync.WaitGroup
	all.Add(count)
	ended.Add(count)
	for range count {
		go func() {
			defer ended.Done()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		}()
	}
	ended.Wait()
}
