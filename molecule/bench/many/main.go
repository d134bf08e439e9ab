// Many measures how much memory a backup and a restore of many small files need. It makes a tree of so many files,
// stores it with the backend mirror, removes some files, and restores them. All of that is done in this one process.
// After the backup and after the restore it prints the process's peak memory so far, in KiB, and the number of files.
// It needs no LVM. make bench runs it with a million files, for which the guest's volumes have no room, beside the
// measurement of fewer files in the guest.
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

// filesPerDirectory is how many files each directory of the tree has.
const filesPerDirectory = 1000

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
	root, repository := filepath.Join(dir, "root"), filepath.Join(dir, "repository")
	scratch := filepath.Join(dir, "scratch")
	for _, d := range []string{repository, scratch} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if err := makeFiles(root, files); err != nil {
		return err
	}
	ctx := context.Background()
	config := backup.Config{Options: map[string]any{"path": repository}, Scratch: scratch}
	source := backup.Tree{Host: "many", Time: time.Now(), Roots: []string{root}}
	noReport := func(backup.Progress) {}
	stored, err := mirror.New().Store(ctx, config, source, noReport)
	if err != nil {
		return err
	}
	if err := printPeak("store", stored.Files); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(root, "0")); err != nil {
		return err
	}
	var done tree.Done
	restore := func(ctx context.Context, p backup.Presented) error {
		done, err = tree.Sync(ctx, p.Roots[root], root, tree.Options{OneFileSystem: true})
		return err
	}
	err = mirror.New().Present(ctx, config, stored.ID, noReport, restore)
	if err != nil {
		return err
	}
	return printPeak("restore", done.Files)
}

// makeFiles makes a tree of small files.
func makeFiles(root string, files int) error {
	for n := range files {
		dir := filepath.Join(root, strconv.Itoa(n/filesPerDirectory))
		if n%filesPerDirectory == 0 {
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

// printPeak prints the largest resident set of this process so far, in KiB (proc_pid_status(5)), and the number of
// files.
func printPeak(what string, files int64) error {
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
