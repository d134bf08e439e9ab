package lvm

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBlockedGoroutinesUseSpareThreads has more goroutines than processors wait in the kernel. The Go runtime must make
// no new thread for them.
func TestBlockedGoroutinesUseSpareThreads(t *testing.T) {
	const waiting = 12
	makeSpareThreads(2*waiting + runtime.GOMAXPROCS(0))
	before := threadCount(t)
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, waiting)
	for range waiting {
		go func() {
			_, err := unix.Read(pipe[0], make([]byte, 1))
			ended <- err
		}()
	}
	for deadline := time.Now().Add(20 * time.Second); threadsInRead(t) < waiting; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d wait", threadsInRead(t), waiting)
		}
	}
	// The runtime may have made one for itself meanwhile, such as its template thread. Without spare threads it makes
	// about as many as wait.
	if after := threadCount(t); after > before+1 {
		t.Errorf("%d threads before, %d while %d of them wait", before, after, waiting)
	}
	unix.Close(pipe[1])
	for range waiting {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	unix.Close(pipe[0])
}

// threadCount returns how many threads this process has.
func threadCount(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// threadsInRead returns how many threads of this process are in a read(2).
func threadsInRead(t *testing.T) (count int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range all {
		in, err := os.ReadFile("/proc/self/task/" + thread.Name() + "/syscall")
		if err == nil && strings.HasPrefix(string(in), strconv.Itoa(unix.SYS_READ)+" ") {
			count++
		}
	}
	return count
}
