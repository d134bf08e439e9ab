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

// newRepository makes an empty repository at path. It was made by `restic init`, except for its key: that is derived
// from the password with scrypt's N=2, because restic's own N would make every call take half a second.
func newRepository(t *testing.T, path string) {
	t.Helper()
	must(t, os.CopyFS(path, os.DirFS("testdata/repository")))
	for _, dir := range []string{"data", "index", "locks", "snapshots"} {
		must(t, os.Mkdir(filepath.Join(path, dir), 0o700))
	}
}

// resticCommand returns a command that runs restic itself.
func resticCommand(path string, args ...string) *exec.Cmd {
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

// fixture is the backend with a repository and a tree to store.
type fixture struct {
	backup.Backend
	config backup.Config
	tree   backup.Tree
}

var instant = time.Date(2026, 11, 23, 20, 0, 0, 123456789, time.UTC)

func newFixture(t *testing.T) *fixture {
	t.Helper()
	path := filepath.Join(t.TempDir(), "repository")
	newRepository(t, path)
	root := filepath.Join(t.TempDir(), "dat")
	must(t, os.MkdirAll(filepath.Join(root, "sub"), 0o750))
	must(t, os.WriteFile(filepath.Join(root, "file"), bytes.Repeat([]byte("rewind\n"), 100000), 0o640))
	must(t, os.Link(filepath.Join(root, "file"), filepath.Join(root, "sub", "link")))
	must(t, unix.Lsetxattr(filepath.Join(root, "file"), "user.rewind", []byte("x"), 0))
	tree := backup.Tree{Host: "db1", Set: "snap", Time: instant, Roots: []string{root}}
	return &fixture{restic.New(), config(t, path), tree}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ignoreProgress(backup.Progress) {}

func (fx *fixture) store(t *testing.T) backup.Stored {
	t.Helper()
	stored, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	must(t, err)
	return stored
}

func TestPresentShowsWhatWasStored(t *testing.T) {
	fx := newFixture(t)
	stored := fx.store(t)
	if stored.Files != 2 || stored.Bytes != 1400000 || stored.Added == 0 || len(stored.ID) != 64 {
		t.Errorf("stored %+v", stored)
	}
	list, err := fx.List(t.Context(), fx.config, "db1")
	must(t, err)
	want := backup.Stored{ID: stored.ID, Host: "db1", Set: "snap", Time: instant, Roots: fx.tree.Roots, Sequence: 1}
	if len(list) != 1 {
		t.Fatalf("lists %+v", list)
	}
	list[0].Files, list[0].Bytes, list[0].Added = 0, 0, 0
	if diff := cmp.Diff(want, list[0]); diff != "" {
		t.Error(diff)
	}
	for _, id := range []string{stored.ID, stored.ID[:8]} {
		calls := 0
		err = fx.Present(t.Context(), fx.config, id, ignoreProgress, func(_ context.Context, p backup.Presented) error {
			calls++
			checkEqual(t, fx.tree.Roots[0], p.Roots[fx.tree.Roots[0]])
			return nil
		})
		if err != nil || calls != 1 {
			t.Errorf("%s: %v, used %d times", id, err, calls)
		}
	}
	fx.checkNothingLeft(t)
}

// checkEqual compares two trees with rsync, which is independent of this program.
func checkEqual(t *testing.T, a, b string) {
	t.Helper()
	out, err := exec.Command("rsync", "-aHAXnci", "--delete", a+"/", b+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("they differ: %v\n%s", err, out)
	}
}

// checkNothingLeft checks that there is no mount, no mount point, nothing restored into scratch, and no lock.
func (fx *fixture) checkNothingLeft(t *testing.T) {
	t.Helper()
	mounts, err := filesystem.Mounts()
	must(t, err)
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, fx.config.Scratch) {
			t.Errorf("still mounted: %s", m.Point)
		}
	}
	for _, dir := range []string{fx.config.Scratch, fx.option("scratch"),
		filepath.Join(fx.option("repository"), "locks")} {
		entries, err := os.ReadDir(dir)
		must(t, err)
		if len(entries) > 0 {
			t.Errorf("%s still holds %v", dir, entries)
		}
	}
}

func (fx *fixture) option(name string) string { return fx.config.Options[name].(string) }

// Storing an unchanged tree a second time adds nothing, although the set has another time: restic finds the parent.
func TestSecondStoreFindsItsParent(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	fx.tree.Time = fx.tree.Time.Add(time.Hour)
	again := fx.store(t)
	if again.Added > 10000 {
		t.Errorf("the second backup of the same tree added %d bytes", again.Added)
	}
	list, err := fx.List(t.Context(), fx.config, "")
	must(t, err)
	if len(list) != 2 || list[0].ID != again.ID {
		t.Errorf("not the newest first: %+v", list)
	}
}

func TestForgetRemovesFromList(t *testing.T) {
	fx := newFixture(t)
	stored := fx.store(t)
	must(t, fx.Forget(t.Context(), fx.config, stored.ID))
	if err := fx.Forget(t.Context(), fx.config, stored.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
	list, err := fx.List(t.Context(), fx.config, "")
	if err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestPresentReturnsTheUsersError(t *testing.T) {
	fx := newFixture(t)
	mine := errors.New("mine")
	err := fx.Present(t.Context(), fx.config, fx.store(t).ID, ignoreProgress,
		func(context.Context, backup.Presented) error { return mine })
	if err != mine {
		t.Errorf("got %v", err)
	}
	fx.checkNothingLeft(t)
}

// The mount goes even if a reader still holds a file in it open.
func TestPresentUnmountsUnderReader(t *testing.T) {
	fx := newFixture(t)
	var held *os.File
	err := fx.Present(t.Context(), fx.config, fx.store(t).ID, ignoreProgress,
		func(_ context.Context, p backup.Presented) (err error) {
			held, err = os.Open(p.Roots[fx.tree.Roots[0]])
			return err
		})
	must(t, err)
	defer held.Close()
	fx.checkNothingLeft(t)
}

// removeHardLink makes the tree one that every version of restic can mount.
func (fx *fixture) removeHardLink(t *testing.T) {
	t.Helper()
	must(t, os.Remove(filepath.Join(fx.tree.Roots[0], "sub", "link")))
}

// If restic is killed while its mount is read, the context of use ends, and Present fails.
func TestPresentFailsIfResticIsKilled(t *testing.T) {
	fx := newFixture(t)
	fx.removeHardLink(t)
	id := fx.store(t).ID
	err := fx.Present(t.Context(), fx.config, id, ignoreProgress, func(ctx context.Context, p backup.Presented) error {
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
	must(t, fx.Settle(t.Context(), fx.config)) // the lock
	fx.checkNothingLeft(t)
}

// running returns the PIDs of the restic processes whose arguments contain text.
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

func TestCanceledStoreListsNothing(t *testing.T) {
	fx := newFixture(t)
	fx.config.Options["limit_upload"] = 1 // KiB/s: so it cannot end before it is canceled
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	must(t, os.WriteFile(filepath.Join(fx.tree.Roots[0], "large"), data, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		fx.waitUntilLocked(t)
	}()
	_, err := fx.Store(ctx, fx.config, fx.tree, ignoreProgress)
	if !errors.Is(err, fault.Interrupted) {
		t.Fatalf("got %v", err)
	}
	delete(fx.config.Options, "limit_upload")
	if list, err := fx.List(t.Context(), fx.config, ""); err != nil || len(list) > 0 {
		t.Errorf("after a Store that was cancelled: %v, %v", list, err)
	}
	must(t, fx.Settle(t.Context(), fx.config))
	fx.checkNothingLeft(t)
}

func TestWrongOptionsAreNamed(t *testing.T) {
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
	fifo := filepath.Join(t.TempDir(), "fifo") // as bash makes of <(command); nobody writes to it
	must(t, unix.Mkfifo(fifo, 0o600))
	_, err = restic.New().Describe(t.Context(), backup.Config{
		Options: map[string]any{"repository": "/x", "password_file": fifo},
	})
	if f := fault.Of(err); f == nil || !strings.Contains(f.Msg, "fifo is not a file") {
		t.Errorf("got %v", err)
	}
	c = backup.Config{Options: map[string]any{"repo": "/x", "password": "canary"}}
	_, err = restic.New().Describe(t.Context(), c)
	if f := fault.Of(err); f == nil || !strings.Contains(f.Msg, "repo: there is no such argument") ||
		strings.Contains(f.Msg, "canary") {
		t.Errorf("got %v", err)
	}
	_, err = restic.New().Describe(t.Context(), backup.Config{})
	if f := fault.Of(err); f == nil || !strings.Contains(f.Msg, "repository: is missing") ||
		!strings.Contains(f.Msg, "password_file: is missing") {
		t.Errorf("got %v", err)
	}
}

func TestDescribeNamesLocalPaths(t *testing.T) {
	fx := newFixture(t)
	d, err := fx.Describe(t.Context(), fx.config)
	must(t, err)
	want := []string{fx.option("repository"), fx.option("cache"), fx.option("scratch")}
	if d.Name != "restic" || d.Version == "" || !cmp.Equal(d.Local, want) {
		t.Errorf("%+v", d)
	}
	fx.config.Options["repository"] = "rest:https://backup.example.com/"
	d, err = fx.Describe(t.Context(), fx.config)
	must(t, err)
	if !cmp.Equal(d.Local, want[1:]) {
		t.Errorf("%+v", d)
	}
}

// While everything runs, no process on this host has the password in its arguments, and no progress contains it. The
// repository is named in the environment, because its URL may contain a password, too.
func TestSecretsAreInNoArguments(t *testing.T) {
	fx := newFixture(t)
	fx.config.Environment["RESTIC_REPOSITORY"] = "local:" + fx.option("repository")
	delete(fx.config.Options, "repository")
	fx.config.Environment["AWS_SECRET_ACCESS_KEY"] = "canary-aws"
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
	stored, err := fx.Store(t.Context(), fx.config, fx.tree, func(p backup.Progress) {
		if strings.Contains(p.Label, "canary") {
			t.Errorf("progress: %+v", p)
		}
	})
	must(t, err)
	must(t, fx.Present(t.Context(), fx.config, stored.ID, ignoreProgress, func(context.Context, backup.Presented) error {
		return nil
	}))
	close(done)
	if n := <-seen; n == 0 {
		t.Error("restic was never seen running: this proves nothing")
	}
}

// processes returns the arguments of every process by PID. Each argument ends with NUL.
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
			continue // not a process
		}
		if argv, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline"); err == nil {
			all[pid] = string(argv)
		}
	}
	return all
}
