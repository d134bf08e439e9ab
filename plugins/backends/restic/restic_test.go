package restic_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/plugins/backends/restic"
)

const password = "canary-4f1d"

// repository makes an empty repository at path. It is one of `restic init`, but for its key: that one is derived from
// the password with scrypt's N=2, and not with what takes every call to restic half a second.
func repository(t *testing.T, path string) {
	t.Helper()
	must(t, os.CopyFS(path, os.DirFS("testdata/repository")))
	for _, dir := range []string{"data", "index", "locks", "snapshots"} {
		must(t, os.Mkdir(filepath.Join(path, dir), 0o700))
	}
}

// command is restic itself.
func command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command("restic", append([]string{"--no-cache", "-r", path}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password)
	return cmd
}

func config(t *testing.T, repository string) backup.Config {
	t.Helper()
	return backup.Config{
		Options:     map[string]any{"repository": repository, "cache": t.TempDir(), "scratch": t.TempDir()},
		Environment: map[string]string{"RESTIC_PASSWORD": password},
		Scratch:     t.TempDir(),
	}
}

// world is a repository, a tree to store and the backend.
type world struct {
	backup.Backend
	config backup.Config
	tree   backup.Tree
}

var instant = time.Date(2026, 11, 23, 20, 0, 0, 123456789, time.UTC)

func newWorld(t *testing.T) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "repository")
	repository(t, path)
	root := filepath.Join(t.TempDir(), "dat")
	must(t, os.MkdirAll(filepath.Join(root, "sub"), 0o750))
	must(t, os.WriteFile(filepath.Join(root, "file"), bytes.Repeat([]byte("rewind\n"), 100000), 0o640))
	must(t, os.Link(filepath.Join(root, "file"), filepath.Join(root, "sub", "link")))
	must(t, unix.Lsetxattr(filepath.Join(root, "file"), "user.rewind", []byte("x"), 0))
	tree := backup.Tree{Host: "db1", Set: "snap", Time: instant, Roots: []string{root}}
	return &world{restic.New(), config(t, path), tree}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ignore(backup.Progress) {}

func (w *world) store(t *testing.T) backup.Stored {
	t.Helper()
	stored, err := w.Store(t.Context(), w.config, w.tree, ignore)
	must(t, err)
	return stored
}

func TestRoundTrip(t *testing.T) {
	w := newWorld(t)
	stored := w.store(t)
	if stored.Files != 2 || stored.Bytes != 1400000 || stored.Added == 0 || len(stored.ID) != 64 {
		t.Errorf("stored %+v", stored)
	}
	list, err := w.List(t.Context(), w.config, "db1")
	must(t, err)
	want := backup.Stored{ID: stored.ID, Host: "db1", Set: "snap", Time: instant, Roots: w.tree.Roots, Sequence: 1}
	if len(list) != 1 {
		t.Fatalf("lists %+v", list)
	}
	list[0].Files, list[0].Bytes, list[0].Added = 0, 0, 0
	if diff := cmp.Diff(want, list[0]); diff != "" {
		t.Error(diff)
	}
	for _, id := range []string{stored.ID, stored.ID[:8]} {
		calls := 0
		err = w.Present(t.Context(), w.config, id, ignore, func(_ context.Context, p backup.Presented) error {
			calls++
			same(t, w.tree.Roots[0], p.Roots[w.tree.Roots[0]])
			return nil
		})
		if err != nil || calls != 1 {
			t.Errorf("%s: %v, used %d times", id, err, calls)
		}
	}
	w.nothingLeft(t)
}

// same compares with rsync, which knows nothing of this program.
func same(t *testing.T, a, b string) {
	t.Helper()
	out, err := exec.Command("rsync", "-aHAXnci", "--delete", a+"/", b+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("they differ: %v\n%s", err, out)
	}
}

// nothingLeft: no mount, no mount point, nothing laid out, no lock.
func (w *world) nothingLeft(t *testing.T) {
	t.Helper()
	mounts, err := filesystem.Mounts()
	must(t, err)
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, w.config.Scratch) {
			t.Errorf("still mounted: %s", m.Point)
		}
	}
	for _, dir := range []string{w.config.Scratch, w.option("scratch"), filepath.Join(w.option("repository"), "locks")} {
		entries, err := os.ReadDir(dir)
		must(t, err)
		if len(entries) > 0 {
			t.Errorf("%s still holds %v", dir, entries)
		}
	}
}

func (w *world) option(name string) string { return w.config.Options[name].(string) }

// An unchanged tree costs nothing the second time, although the set's time is another: restic has found its parent.
func TestSecondStoreFindsItsParent(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	w.tree.Time = w.tree.Time.Add(time.Hour)
	again := w.store(t)
	if again.Added > 10000 {
		t.Errorf("the second backup of the same tree added %d bytes", again.Added)
	}
	list, err := w.List(t.Context(), w.config, "")
	must(t, err)
	if len(list) != 2 || list[0].ID != again.ID {
		t.Errorf("not the newest first: %+v", list)
	}
}

func TestForget(t *testing.T) {
	w := newWorld(t)
	stored := w.store(t)
	must(t, w.Forget(t.Context(), w.config, stored.ID))
	if err := w.Forget(t.Context(), w.config, stored.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
	list, err := w.List(t.Context(), w.config, "")
	if err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestPresentReturnsTheUsersError(t *testing.T) {
	w := newWorld(t)
	mine := errors.New("mine")
	err := w.Present(t.Context(), w.config, w.store(t).ID, ignore, func(context.Context, backup.Presented) error { return mine })
	if err != mine {
		t.Errorf("got %v", err)
	}
	w.nothingLeft(t)
}

// A reader that still holds the mount when it is to go must not keep it.
func TestPresentEndsUnderAReader(t *testing.T) {
	w := newWorld(t)
	var held *os.File
	err := w.Present(t.Context(), w.config, w.store(t).ID, ignore, func(_ context.Context, p backup.Presented) (err error) {
		held, err = os.Open(p.Roots[w.tree.Roots[0]])
		return err
	})
	must(t, err)
	defer held.Close()
	w.nothingLeft(t)
}

// noLinks makes the tree one that every restic can mount.
func (w *world) noLinks(t *testing.T) {
	t.Helper()
	must(t, os.Remove(filepath.Join(w.tree.Roots[0], "sub", "link")))
}

// TestPresentWhenResticIsKilled: restic is killed while its mount is read. The user's context ends and says why.
func TestPresentWhenResticIsKilled(t *testing.T) {
	w := newWorld(t)
	w.noLinks(t)
	id := w.store(t).ID
	err := w.Present(t.Context(), w.config, id, ignore, func(ctx context.Context, p backup.Presented) error {
		pids := running(t, "mount\x00--path-template")
		if len(pids) != 1 {
			t.Fatalf("restic runs as %v", pids)
		}
		must(t, syscall.Kill(pids[0], syscall.SIGKILL))
		<-ctx.Done()
		return nil
	})
	if !errors.Is(err, fault.BackendFailed) {
		t.Errorf("got %v", err)
	}
	must(t, w.Settle(t.Context(), w.config)) // the lock
	w.nothingLeft(t)
}

// running returns the ids of our restic processes whose arguments hold text.
func running(t *testing.T, text string) []int {
	t.Helper()
	var pids []int
	for pid, argv := range processes(t) {
		if strings.HasPrefix(argv, "restic\x00") && strings.Contains(argv, text) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestStoreCancelled(t *testing.T) {
	w := newWorld(t)
	w.config.Options["limit_upload"] = 1 // KiB/s: it cannot be done before it is cancelled
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	must(t, os.WriteFile(filepath.Join(w.tree.Roots[0], "large"), data, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		w.untilLocked(t)
	}()
	_, err := w.Store(ctx, w.config, w.tree, ignore)
	if !errors.Is(err, fault.Interrupted) {
		t.Fatalf("got %v", err)
	}
	delete(w.config.Options, "limit_upload")
	if list, err := w.List(t.Context(), w.config, ""); err != nil || len(list) > 0 {
		t.Errorf("after a Store that was cancelled: %v, %v", list, err)
	}
	must(t, w.Settle(t.Context(), w.config))
	w.nothingLeft(t)
}

func TestBadOptions(t *testing.T) {
	c := backup.Config{
		Options: map[string]any{
			"repository": "relative", "password_file": "/nowhere", "cache": "x", "scratch": "/nowhere", "limit_upload": -1,
		},
	}
	_, err := restic.New().Describe(t.Context(), c)
	f := fault.Of(err)
	if f == nil || f.Code != fault.BadArguments {
		t.Fatalf("got %v", err)
	}
	for name := range c.Options {
		if !strings.Contains(f.Msg, name+": ") {
			t.Errorf("%s is not named: %s", name, f.Msg)
		}
	}
	c = backup.Config{Options: map[string]any{"repo": "/x", "password": "canary"}}
	_, err = restic.New().Describe(t.Context(), c)
	if f := fault.Of(err); f == nil || !strings.Contains(f.Msg, "repo: there is no such argument") || strings.Contains(f.Msg, "canary") {
		t.Errorf("got %v", err)
	}
	_, err = restic.New().Describe(t.Context(), backup.Config{})
	if f := fault.Of(err); f == nil || !strings.Contains(f.Msg, "repository: is missing") || !strings.Contains(f.Msg, "password_file: is missing") {
		t.Errorf("got %v", err)
	}
}

func TestDescribe(t *testing.T) {
	w := newWorld(t)
	d, err := w.Describe(t.Context(), w.config)
	must(t, err)
	want := []string{w.option("repository"), w.option("cache"), w.option("scratch")}
	if d.Name != "restic" || d.Version == "" || !cmp.Equal(d.Local, want) {
		t.Errorf("%+v", d)
	}
	w.config.Options["repository"] = "rest:https://backup.example.com/"
	d, err = w.Describe(t.Context(), w.config)
	must(t, err)
	if !cmp.Equal(d.Local, want[1:]) {
		t.Errorf("%+v", d)
	}
}

// TestSecrets: while everything runs, no argv on this host holds the password, and no progress tells it. The
// repository comes from the environment, where its URL may hold a password too.
func TestSecrets(t *testing.T) {
	w := newWorld(t)
	w.config.Environment["RESTIC_REPOSITORY"] = "local:" + w.option("repository")
	delete(w.config.Options, "repository")
	w.config.Environment["AWS_SECRET_ACCESS_KEY"] = "canary-aws"
	done, seen := make(chan struct{}), make(chan int)
	go func() {
		calls := 0
		for {
			for _, argv := range processes(t) {
				if strings.Contains(argv, "canary") {
					t.Errorf("a secret in argv: %q", argv)
				}
				if strings.HasPrefix(argv, "restic\x00") {
					calls++
				}
			}
			select {
			case <-done:
				seen <- calls
				return
			default:
			}
		}
	}()
	stored, err := w.Store(t.Context(), w.config, w.tree, func(p backup.Progress) {
		if strings.Contains(p.Label, "canary") {
			t.Errorf("progress: %+v", p)
		}
	})
	must(t, err)
	must(t, w.Present(t.Context(), w.config, stored.ID, ignore, func(context.Context, backup.Presented) error { return nil }))
	close(done)
	if n := <-seen; n == 0 {
		t.Error("restic was never seen running: this proves nothing")
	}
}

// processes returns the arguments of every process, by its id, each ended by NUL.
func processes(t *testing.T) map[int]string {
	t.Helper()
	all := map[int]string{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // no process
		}
		if argv, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline"); err == nil {
			all[pid] = string(argv)
		}
	}
	return all
}
