// Stall measures how long programs that write must wait while snapshots are taken: a set by lvm_snapshot, as many
// snapshots by one lvcreate -s after the other, and a single snapshot by lvcreate -s. It measures these in turn. It
// runs in the guest and prints lines "NAME MILLISECONDS".
//
// On each file system a writer writes 4 KiB and syncs them, again and again. Its stall is the longest of its writes
// while the snapshots are taken. So the stall is what a database waits at a commit, and not the pause that Rewind
// reports.
//
//	stall ROUNDS POINT=VG/LV...
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// cowSize is the COW space of each snapshot.
const cowSize = "64M"

// quietTime is how long the writers are measured while no snapshot is taken, to see how long they wait for other
// reasons.
const quietTime = 3 * time.Second

// volume is a logical volume, as VG/LV, and where it is mounted.
type volume struct{ mountPoint, lv string }

// snapshot is the name of the volume's snapshot, as VG/LV.
func (v volume) snapshot() string { return v.lv + "_stall" }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stall:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("its arguments are: ROUNDS POINT=VG/LV, and more of these")
	}
	rounds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var volumes []volume
	for _, arg := range args[1:] {
		point, lv, _ := strings.Cut(arg, "=")
		volumes = append(volumes, volume{point, lv})
	}
	for round := range rounds {
		for _, count := range []int{2, len(volumes)} {
			if err := measure(round, volumes[:count]); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure takes the snapshots of one round in each way, and prints how long that took and the longest stall. Every
// other round has the opposite order.
func measure(round int, volumes []volume) error {
	ways := []way{
		{"quiet", volumes, func() error { time.Sleep(quietTime); return nil }},
		{"single", volumes[:1], func() error { return takeSingle(volumes[0]) }},
		{"row", volumes, func() error { return takeRow(volumes) }},
		{"set", volumes, func() error { return takeSet(volumes) }},
	}
	if round%2 == 1 {
		slices.Reverse(ways)
	}
	for _, w := range ways {
		stalls, took, err := whileWriting(volumes, w.take)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if w.name != "quiet" {
			if err := removeSnapshots(w.taken); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("%d-%s", len(volumes), w.name)
		fmt.Printf("%s-total %d\n", name, took.Milliseconds())
		fmt.Printf("%s-stall %d\n", name, slices.Max(stalls[:len(w.taken)]).Milliseconds())
	}
	return nil
}

// way is a way to take snapshots.
type way struct {
	name  string
	taken []volume // of which it takes snapshots: the first ones of the volumes that are written to
	take  func() error
}

// takeSingle takes a snapshot of one volume with lvcreate.
func takeSingle(v volume) error {
	vg, name, _ := strings.Cut(v.snapshot(), "/")
	return execute("lvcreate", "-qq", "-s", "-L", cowSize, "-n", name, vg+"/"+filepath.Base(v.lv))
}

// takeRow takes a snapshot of each volume with lvcreate, one after the other.
func takeRow(volumes []volume) error {
	for _, v := range volumes {
		if err := takeSingle(v); err != nil {
			return err
		}
	}
	return nil
}

// takeSet takes a set with lvm_snapshot.
func takeSet(volumes []volume) error {
	var lvs []string
	for _, v := range volumes {
		lvs = append(lvs, v.lv)
	}
	return execute("lvm_snapshot", "name=stall", "size="+cowSize, "volumes="+strings.Join(lvs, ","))
}

// removeSnapshots removes the snapshots of volumes with lvremove.
func removeSnapshots(volumes []volume) error {
	words := []string{"-qqy"}
	for _, v := range volumes {
		words = append(words, v.snapshot())
	}
	return execute("lvremove", words...)
}

// execute runs a program. If it fails, its output is in the error.
func execute(name string, words ...string) error {
	if out, err := exec.Command(name, words...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, words, err, out)
	}
	return nil
}

// whileWriting calls take while a writer writes to each volume. It returns the longest time of a write to each volume,
// and the time that take took.
func whileWriting(volumes []volume, take func() error) ([]time.Duration, time.Duration, error) {
	writers := make([]*writer, len(volumes))
	var ended sync.WaitGroup
	for i, v := range volumes {
		w, err := newWriter(v.mountPoint)
		if err != nil {
			return nil, 0, err
		}
		defer w.remove()
		writers[i] = w
	}
	end := make(chan struct{})
	for _, w := range writers {
		ended.Add(1)
		go func() {
			defer ended.Done()
			w.write(end)
		}()
	}
	begun := time.Now()
	err := take()
	took := time.Since(begun)
	close(end)
	ended.Wait()
	longest := make([]time.Duration, len(volumes))
	for i, w := range writers {
		if err == nil {
			err = w.err
		}
		longest[i] = w.longest
	}
	return longest, took, err
}

// writer overwrites the first 4 KiB of a file again and again.
type writer struct {
	file    *os.File
	longest time.Duration
	err     error
}

// newWriter makes the file of a writer on a file system.
func newWriter(point string) (*writer, error) {
	file, err := os.Create(filepath.Join(point, "stall"))
	if err != nil {
		return nil, err
	}
	w := &writer{file: file}
	if err := w.writeOnce(); err != nil { // so that the file's blocks are allocated before the measurement
		w.remove()
		return nil, err
	}
	return w, nil
}

// write overwrites the file until end is closed or a write fails.
func (w *writer) write(end <-chan struct{}) {
	for w.err == nil {
		begun := time.Now()
		w.err = w.writeOnce()
		w.longest = max(w.longest, time.Since(begun))
		select {
		case <-end:
			return
		default:
		}
	}
}

// writeOnce writes 4 KiB and syncs them.
func (w *writer) writeOnce() error {
	if _, err := w.file.WriteAt(make([]byte, 4096), 0); err != nil {
		return err
	}
	return w.file.Sync()
}

// remove closes and removes the file.
func (w *writer) remove() {
	w.file.Close()
	os.Remove(w.file.Name())
}
