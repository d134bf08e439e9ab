// Many measures how much memory a backup and a restore of many small files take: mirror stores a tree of that many files,
// and the tree is compared with what was stored and completed after some are gone. Both happen in this one process, whose
// peak is printed after each, in KiB, and how many files there were. It takes no LVM: make bench runs it with a million files where the guest, whose
// volumes have no room for so many, is measured with fewer.
//
//	many DIRECTORY FILES
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/tree"
	"go.pcc.com/rewind/plugins/backends/mirror"
)

// each directory holds this many files.
const each = 1000

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "many:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("many DIRECTORY FILES")
	}
	files, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(args[0], "many-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, repository, scratch := filepath.Join(dir, "root"), filepath.Join(dir, "repository"), filepath.Join(dir, "scratch")
	for _, d := range []string{repository, scratch} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if err := fill(root, files); err != nil {
		return err
	}
	ctx := context.Background()
	config := backup.Config{Options: map[string]any{"path": repository}, Scratch: scratch}
	stored, err := mirror.New().Store(ctx, config, backup.Tree{Host: "many", Time: time.Now(), Roots: []string{root}}, func(backup.Progress) {})
	if err != nil {
		return err
	}
	if err := peak("store", stored.Files); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(root, "0")); err != nil {
		return err
	}
	var done tree.Done
	err = mirror.New().Present(ctx, config, stored.ID, func(backup.Progress) {}, func(ctx context.Context, p backup.Presented) error {
		done, err = tree.Sync(ctx, p.Roots[root], root, tree.Options{OneFileSystem: true})
		return err
	})
	if err != nil {
		return err
	}
	return peak("restore", done.Files)
}

func fill(root string, files int) error {
	for n := range files {
		dir := filepath.Join(root, strconv.Itoa(n/each))
		if n%each == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(n)), []byte("x"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// peak prints the largest resident set of this process so far (proc_pid_status(5)).
func peak(what string, files int64) error {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return err
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			fmt.Printf("memory-many-%s %s\nmemory-many-files %d\n", what, strings.Fields(value)[0], files)
			return nil
		}
	}
	return fmt.Errorf("/proc/self/status has no VmHWM")
}
