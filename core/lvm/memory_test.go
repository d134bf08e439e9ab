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

// TestSpareThreads has goroutines wait in the kernel, more than one for each processor: no thread is made for that.
func TestSpareThreads(t *testing.T) {
	const waiting = 12
	spareThreads(2*waiting + runtime.GOMAXPROCS(0))
	before := threads(t)
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
	for deadline := time.Now().Add(20 * time.Second); reading(t) < waiting; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d wait", reading(t), waiting)
		}
	}
	if after := threads(t); after > before {
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

func threads(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// reading is how many threads wait for a pipe.
func reading(t *testing.T) (count int) {
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
