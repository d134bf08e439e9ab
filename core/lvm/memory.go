package lvm

import (
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// lockMemory keeps all of this program in memory until unlock is called: reading a page of it from a suspended volume,
// or from swap space on one, would never end. It also stops the garbage collector for that time. Fault: unsupported.
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

// makeSpareThreads has the Go runtime make that many threads. The runtime keeps them, and uses them instead of making
// new ones when other threads wait in the kernel. A new thread needs memory, which may become free only by swapping to
// a suspended volume.
func makeSpareThreads(count int) {
	var started, ended sync.WaitGroup
	started.Add(count)
	ended.Add(count)
	for range count {
		go func() {
			defer ended.Done()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			started.Done()
			started.Wait()
		}()
	}
	ended.Wait()
}
