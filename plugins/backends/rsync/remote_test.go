package rsync

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// localSSH plays another host with directories of this host: it runs rsync without ssh. A call for which fails returns
// true fails like ssh and does not run.
type localSSH struct {
	command.Local
	fails    func(argv []string) bool
	synced   [][]string    // the calls of ssh itself
	streamed []command.Cmd // the calls of rsync
}

const remotePrefix = "root@far:"

func (w *localSSH) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	if c.Argv[0] != "ssh" {
		return w.Local.Run(ctx, c)
	}
	w.synced = append(w.synced, c.Argv)
	return command.Output{}, nil
}

func (w *localSSH) Stream(ctx context.Context, c command.Cmd, line func(string)) (command.Output, error) {
	if w.fails != nil && w.fails(c.Argv) {
		return command.Output{}, &command.Error{Argv: c.Argv, Code: exitSSH, Err: errors.New("exit status 255")}
	}
	w.streamed = append(w.streamed, c)
	argv := c.Argv[:0:0]
	for i, arg := range c.Argv {
		if arg == "-s" || arg == "-e" || i > 0 && c.Argv[i-1] == "-e" {
			continue
		}
		argv = append(argv, strings.TrimPrefix(arg, remotePrefix))
	}
	c.Argv = argv
	return w.Local.Stream(ctx, c, line)
}

func (w *localSSH) tool(t *testing.T, c backup.Config) *tool {
	t.Helper()
	opened, err := (&Backend{run: w}).open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func remoteConfig(t *testing.T) (c backup.Config, dir string) {
	t.Helper()
	dir = t.TempDir()
	return backup.Config{Options: map[string]any{"path": remotePrefix + dir}, Scratch: t.TempDir()}, dir
}

func exampleTree(t *testing.T) backup.Tree {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return backup.Tree{Host: "h", Set: "s", Time: time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC), Roots: []string{root}}
}

// If the lock cannot be removed after a Store, the backup is complete and listed, and there is a warning.
func TestLockThatCannotBeRemovedIsAWarning(t *testing.T) {
	w := &localSSH{fails: func(argv []string) bool {
		return slices.Contains(argv, "--delete") && slices.ContainsFunc(argv, func(arg string) bool {
			return strings.HasPrefix(arg, "--include=/.lock-")
		})
	}}
	c, dir := remoteConfig(t)
	b := &Backend{run: w}
	stored, err := b.Store(t.Context(), c, exampleTree(t), ignoreProgress)
	if err != nil || stored.ID != "20261123T200000Z.h" {
		t.Fatalf("%+v, %v", stored, err)
	}
	if len(stored.Warnings) != 1 || !strings.Contains(stored.Warnings[0], "lock") {
		t.Errorf("warnings %q", stored.Warnings)
	}
	if list, err := b.List(t.Context(), c, "h"); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if locks, err := filepath.Glob(filepath.Join(dir, "h", ".lock-*")); err != nil || len(locks) != 1 {
		t.Errorf("the lock was removed after all: %v, %v", locks, err)
	}
}

// Forget takes the lock on the other host, as Store does, and fails while another run holds it.
func TestRemoteForgetNeedsLock(t *testing.T) {
	w := &localSSH{}
	c, dir := remoteConfig(t)
	b := &Backend{run: w}
	stored, err := b.Store(t.Context(), c, exampleTree(t), ignoreProgress)
	if err != nil {
		t.Fatal(err)
	}
	held, err := w.tool(t, c).place().lock(t.Context(), "h")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(t.Context(), c, stored.ID); !errors.Is(err, fault.RepositoryLocked) {
		t.Errorf("while another run is alive: %v", err)
	}
	for host, want := range map[string]bool{"h": true, "other": false} {
		c := c
		c.Host = host
		if _, err := b.Check(t.Context(), c); errors.Is(err, fault.RepositoryLocked) != want || !want && err != nil {
			t.Errorf("Check of %s while a run of h is alive: %v", host, err)
		}
	}
	if err := held.unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(t.Context(), c, stored.ID); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "h")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A Store that removes what a killed run left on another host reports progress, although its own rsync only waits.
func TestRemoteRemovalReportsProgress(t *testing.T) {
	c, dir := remoteConfig(t)
	half := filepath.Join(dir, "h", "20261123T190000Z")
	if err := os.MkdirAll(filepath.Join(half, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	reported := 0
	_, err := (&Backend{run: &localSSH{}}).Store(t.Context(), c, exampleTree(t), func(p backup.Progress) {
		if p.Label == "removing 20261123T190000Z" {
			reported++
		}
	})
	if err != nil || reported < 3 {
		t.Errorf("%v, reported %d times", err, reported)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("it is still there")
	}
}

// While another host compares files by their content, the local rsync writes nothing and uses no processor time. It may
// do so for as long as remoteIdle, and every other rsync must show that it works. ssh ends one whose host is gone.
func TestRemoteComparisonMayBeSilent(t *testing.T) {
	c, _ := remoteConfig(t)
	w := &localSSH{}
	b := &Backend{run: w}
	of := exampleTree(t)
	for range 2 { // the second one has a tree to compare with, and no record
		if _, err := b.Store(t.Context(), c, of, ignoreProgress); err != nil {
			t.Fatal(err)
		}
	}
	compared := 0
	for _, cmd := range w.streamed {
		want := time.Duration(0)
		if slices.Contains(cmd.Argv, "--checksum") {
			compared++
			want = remoteIdle
		}
		if cmd.MaxIdle != want || !strings.Contains(strings.Join(cmd.Argv, " "), "-o ServerAliveInterval=") {
			t.Errorf("%q may be idle for %v", cmd.Argv, cmd.MaxIdle)
		}
	}
	if compared != 1 {
		t.Errorf("%d of %d calls compare by content", compared, len(w.streamed))
	}
}

// Trees can be removed also on a file system that cannot hold the owner or the attributes of an empty directory.
func TestRemoveOnFileSystemWithoutXattrs(t *testing.T) {
	l := local{nil, t.TempDir(), t.TempDir()}
	if err := unix.Mount("ramfs", l.dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(l.dir, 0) })
	half := filepath.Join(l.dir, "h", "20261123T190000Z")
	if err := errors.Join(os.MkdirAll(filepath.Join(half, "a"), 0o700),
		unix.Setxattr(l.scratch, "user.x", []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	if unix.Setxattr(half, "user.x", []byte("x"), 0) == nil {
		t.Fatal("the file system can hold attributes: this proves nothing")
	}
	if err := l.remove(t.Context(), "h", []string{"20261123T190000Z"}, ignoreProgress); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("it is still there")
	}
}

// Only root may enter lost+found, and the user on the other host need not be root.
func TestLostAndFoundIsNotFetched(t *testing.T) {
	c, dir := remoteConfig(t)
	for _, host := range []string{"lost+found", "h"} {
		if err := os.MkdirAll(filepath.Join(dir, host, "20261123T200000Z"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	into := t.TempDir()
	if err := (remote{(&localSSH{}).tool(t, c)}).fetchMarkers(t.Context(), into, ""); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(into)
	if err != nil || len(entries) != 1 || entries[0].Name() != "h" {
		t.Errorf("fetched %v, %v", entries, err)
	}
}

// ssh takes an address without the brackets that rsync needs.
func TestSSHGetsAddressWithoutBrackets(t *testing.T) {
	for given, want := range map[string]string{"user@[fe80::1]": "user@fe80::1", "[::1]": "::1",
		"user@host": "user@host"} {
		w := &localSSH{fails: func([]string) bool { return true }} // no marker is sent
		c := backup.Config{Options: map[string]any{"path": given + ":/srv"}, Scratch: t.TempDir()}
		_, _ = w.tool(t, c).place().writeMarker(t.Context(), nil, backup.Stored{Host: "h"}, "20261123T200000Z",
			ignoreProgress)
		if len(w.synced) != 1 || !slices.Equal(w.synced[0][len(w.synced[0])-3:], []string{"--", want, "sync"}) {
			t.Errorf("%s: ran %q", given, w.synced)
		}
	}
}

// Another server of the same name may read the backups on the other host, and neither store nor remove any.
func TestRemoteHostBelongsToOneMachine(t *testing.T) {
	c, dir := remoteConfig(t)
	b := &Backend{run: &localSSH{}}
	c.Host, c.Machine = "h", "one"
	stored, err := b.Store(t.Context(), c, exampleTree(t), ignoreProgress)
	if err != nil {
		t.Fatal(err)
	}
	c.Machine = "other"
	_, storeErr := b.Store(t.Context(), c, exampleTree(t), ignoreProgress)
	_, checkErr := b.Check(t.Context(), c)
	for name, err := range map[string]error{
		"Store": storeErr, "Check": checkErr, "Forget": b.Forget(t.Context(), c, stored.ID),
	} {
		if !errors.Is(err, fault.Exists) || !strings.Contains(fault.Of(err).Hint, remotePrefix+dir+"/h/.machine") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := b.List(t.Context(), c, "h"); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if locks, err := filepath.Glob(filepath.Join(dir, "h", ".lock-*")); err != nil || len(locks) > 0 {
		t.Errorf("locks left: %v, %v", locks, err)
	}
	if err := os.Remove(filepath.Join(dir, "h", ".machine")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Store(t.Context(), c, exampleTree(t), ignoreProgress); err != nil {
		t.Errorf("after the file was removed: %v", err)
	}
}
