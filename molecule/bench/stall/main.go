// Stall measures how long programs that write wait while snapshots are taken: for a set by lvm_snapshot, for as many
// lvcreate -s in a row, and for a single one, in turn. It runs in the guest and prints "NAME MILLISECONDS" lines.
//
// On each file system a writer writes 4 KiB and syncs them, again and again; what it waits is the longest of its writes
// while the snapshots were taken. So it is what a database sees at a commit, not what Rewind says of itself.
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

// cow is the size of each snapshot.
const cow = "64M"

// quiet is how long the writers are watched without a snapshot, for what else they wait for.
const quiet = 3 * time.Second

type volume struct{ point, lv string }

func (v volume) snapshot() string { return v.lv + "_stall" }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stall:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("its words are: ROUNDS POINT=VG/LV, and more of these")
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

// measure takes the snapshots of one round in each way; every other round in the other order.
func measure(round int, volumes []volume) error {
	ways := []way{
		{"quiet", volumes, func() error { time.Sleep(quiet); return nil }},
		{"single", volumes[:1], func() error { return single(volumes[0]) }},
		{"row", volumes, func() error { return row(volumes) }},
		{"set", volumes, func() error { return set(volumes) }},
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
			if err := remove(w.taken); err != nil {
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
	taken []volume // first of those that are written to
	take  func() error
}

func single(v volume) error {
	vg, name, _ := strings.Cut(v.snapshot(), "/")
	return execute("lvcreate", "-qq", "-s", "-L", cow, "-n", name, vg+"/"+filepath.Base(v.lv))
}

func row(volumes []volume) error {
	for _, v := range volumes {
		if err := single(v); err != nil {
			return err
		}
	}
	return nil
}

func set(volumes []volume) error {
	var lvs []string
	for _, v := range volumes {
		lvs = append(lvs, v.lv)
	}
	return execute("lvm_snapshot", "name=stall", "size="+cow, "volumes="+strings.Join(lvs, ","))
}

func remove(volumes []volume) error {
	words := []string{"-qqy"}
	for _, v := range volumes {
		words = append(words, v.snapshot())
	}
	return execute("lvremove", words...)
}

func execute(name string, words ...string) error {
	if out, err := exec.Command(name, words...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, words, err, out)
	}
	return nil
}

// whileWriting calls take while all volumes are written to, and returns the longest that a write to each of them took,
// and how long take took.
func whileWriting(volumes []volume, take func() error) ([]time.Duration, time.Duration, error) {
	writers := make([]*writer, len(volumes))
	var ended sync.WaitGroup
	for i, v := range volumes {
		w, err := newWriter(v.point)
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

// writer overwrites a file again and again.
type writer struct {
	file    *os.File
	longest time.Duration
	err     error
}

func newWriter(point string) (*writer, error) {
	file, err := os.Create(filepath.Join(point, "stall"))
	if err != nil {
		return nil, err
	}
	w := &writer{file: file}
	if err := w.once(); err != nil { // its blocks are allocated
		w.remove()
		return nil, err
	}
	return w, nil
}

func (w *writer) write(end <-chan struct{}) {
	for w.err == nil {
		begun := time.Now()
		w.err = w.once()
		w.longest = max(w.longest, time.Since(begun))
		select {
		case <-end:
			return
		default:
		}
	}
}

func (w *writer) once() error {
	if _, err := w.file.WriteAt(make([]byte, 4096), 0); err != nil {
		return err
	}
	return w.file.Sync()
}

func (w *writer) remove() {
	w.file.Close()
	os.Remove(w.file.Name())
}
