package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// fakeKernel plays the kernel's freezing: it remembers what is frozen, and can refuse a freeze or block it.
type fakeKernel struct {
	mu      sync.Mutex
	frozen  map[string]bool
	thaws   int
	refuse  map[string]error         // the error of FIFREEZE
	blocked map[string]chan struct{} // FIFREEZE returns after this channel is closed
}

func newKernel() *fakeKernel {
	return &fakeKernel{frozen: map[string]bool{}, refuse: map[string]error{}, blocked: map[string]chan struct{}{}}
}

func (k *fakeKernel) ioctl(name string) func(*os.File, uint) error {
	return func(_ *os.File, request uint) error {
		if blocked := k.blocked[name]; request == fiFreeze && blocked != nil {
			<-blocked
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		switch {
		case request == fiThaw && k.frozen[name]:
			k.frozen[name] = false
			k.thaws++
			return nil
		case request == fiThaw:
			return unix.EINVAL
		case k.frozen[name]:
			return unix.EBUSY
		case k.refuse[name] != nil:
			return k.refuse[name]
		}
		k.frozen[name] = true
		return nil
	}
}

func (k *fakeKernel) freezes(t *testing.T, names ...string) []*fsFreeze {
	t.Helper()
	var freezes []*fsFreeze
	for _, name := range names {
		dir, err := os.Open("/proc") // syncfs(2) of /proc is quick
		if err != nil {
			t.Fatal(err)
		}
		freezes = append(freezes, &fsFreeze{points: []string{name}, dir: dir, ioctl: k.ioctl(name)})
	}
	return freezes
}

func (k *fakeKernel) isFrozen(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.frozen[name]
}

// waitThawed waits until none of the file systems is frozen any more. Nothing here thaws them: the program must.
func (k *fakeKernel) waitThawed(t *testing.T, names ...string) {
	t.Helper()
	until := time.Now().Add(10 * time.Second)
	for slices.ContainsFunc(names, k.isFrozen) {
		if time.Now().After(until) {
			t.Fatalf("still frozen: %v", names)
		}
		time.Sleep(time.Millisecond)
	}
}

// A file system that this program may have frozen has a mark; one that another program froze has none.
func TestOnlyOurOwnFreezeIsMarked(t *testing.T) {
	k := newKernel()
	k.frozen["/theirs"] = true
	freezes := k.freezes(t, "/ours", "/theirs")
	for i, fs := range freezes {
		fs.mark = markOf(t.TempDir(), Dev{Major: 8, Minor: uint32(i)})
	}
	if err := freezes[0].freeze(); err != nil || !freezes[0].mark.isSet() {
		t.Errorf("frozen: %v, marked: %v", err, freezes[0].mark.isSet())
	}
	if err := freezes[1].freeze(); !errors.Is(err, fault.Busy) || freezes[1].mark.isSet() {
		t.Errorf("frozen by another: %v, marked: %v", err, freezes[1].mark.isSet())
	}
	if err := fault.All(freezes[0].thaw(), freezes[1].thaw()); err != nil || freezes[0].mark.isSet() {
		t.Errorf("thawed: %v, marked: %v", err, freezes[0].mark.isSet())
	}
	if !k.isFrozen("/theirs") {
		t.Error("another program's freeze was thawed")
	}
}

func TestFreezeAndThaw(t *testing.T) {
	k := newKernel()
	f, err := freezeAll(t.Context(), k.freezes(t, "/a", "/b"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if !k.isFrozen("/a") || !k.isFrozen("/b") {
		t.Fatal("not both frozen")
	}
	for range 2 {
		if err := f.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	if k.isFrozen("/a") || k.isFrozen("/b") || k.thaws != 2 {
		t.Errorf("/a frozen %v, /b frozen %v, %d thaws", k.isFrozen("/a"), k.isFrozen("/b"), k.thaws)
	}
}

func TestFreezeIsAllOrNothing(t *testing.T) {
	for _, c := range []struct {
		refusal error
		code    fault.Code
	}{
		{unix.EBUSY, fault.Busy}, {unix.EOPNOTSUPP, fault.Unsupported},
		{unix.EPERM, fault.NotRoot}, {unix.EIO, fault.Internal},
	} {
		k := newKernel()
		k.refuse["/b"] = c.refusal
		_, err := freezeAll(t.Context(), k.freezes(t, "/a", "/b", "/c"), time.Minute)
		if !errors.Is(err, c.code) {
			t.Errorf("%v: %v, want %s", c.refusal, err, c.code)
		}
		if k.isFrozen("/a") || k.isFrozen("/c") {
			t.Errorf("%v: something is still frozen", c.refusal)
		}
	}
}

// A file system that another program froze stays frozen.
func TestFreezeKeepsAnotherProgramsFreeze(t *testing.T) {
	k := newKernel()
	k.frozen["/b"] = true
	_, err := freezeAll(t.Context(), k.freezes(t, "/a", "/b"), time.Minute)
	if !errors.Is(err, fault.Busy) {
		t.Errorf("got %v, want busy", err)
	}
	if k.isFrozen("/a") || !k.isFrozen("/b") {
		t.Errorf("/a frozen %v, /b frozen %v", k.isFrozen("/a"), k.isFrozen("/b"))
	}
}

func TestFreezeExpires(t *testing.T) {
	k := newKernel()
	f, err := freezeAll(t.Context(), k.freezes(t, "/a", "/b"), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	k.waitThawed(t, "/a", "/b")
	if err := f.Thaw(); !errors.Is(err, fault.FreezeTimeout) {
		t.Errorf("thaw of all after the limit: %v, want freeze_timeout", err)
	}
}

// Whoever is told that a file system "was thawed by the time limit" does not look at it again.
func TestThawThatFailsAtTheLimitIsSaid(t *testing.T) {
	k := newKernel()
	freezes := k.freezes(t, "/a")
	tried := make(chan struct{})
	works := freezes[0].ioctl
	freezes[0].ioctl = func(f *os.File, request uint) error {
		if request == fiThaw {
			defer close(tried)
			return unix.EIO
		}
		return works(f, request)
	}
	f, err := freezeAll(t.Context(), freezes, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	<-tried
	if err := f.Thaw(); err == nil || !strings.Contains(err.Error(), "thaw /a") {
		t.Errorf("thaw of what stays frozen: %v", err)
	}
}

func TestFreezeEndsWithItsContext(t *testing.T) {
	k := newKernel()
	ctx, cancel := context.WithCancel(t.Context())
	f, err := freezeAll(ctx, k.freezes(t, "/a"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	k.waitThawed(t, "/a")
	if err := f.Thaw(); !errors.Is(err, fault.FreezeTimeout) {
		t.Errorf("thaw of all after the context ended: %v, want freeze_timeout", err)
	}
}

// A freeze that hangs in the kernel cannot be cancelled. When it returns after Freeze has given up, it must be undone.
func TestLateFreezeIsThawed(t *testing.T) {
	k := newKernel()
	k.blocked["/slow"] = make(chan struct{})
	freezes := k.freezes(t, "/a", "/slow")
	returned := make(chan struct{})
	slow := freezes[1].ioctl
	freezes[1].ioctl = func(f *os.File, request uint) error {
		err := slow(f, request)
		if request == fiThaw {
			close(returned)
		}
		return err
	}
	_, err := freezeAll(t.Context(), freezes, 20*time.Millisecond)
	if !errors.Is(err, fault.FreezeTimeout) || !errors.Is(err, ErrFreezing) {
		t.Fatalf("got %v, want freeze_timeout, and that a freeze is under way", err)
	}
	if k.isFrozen("/a") {
		t.Error("/a is still frozen")
	}
	close(k.blocked["/slow"])
	<-returned
	if k.isFrozen("/slow") {
		t.Error("/slow stays frozen")
	}
}

func TestThawReportsThatAnotherProgramThawedBefore(t *testing.T) {
	k := newKernel()
	f, err := freezeAll(t.Context(), k.freezes(t, "/a"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_ = k.ioctl("/a")(nil, fiThaw) // fsfreeze -u by hand
	for range 2 {
		if err := f.Thaw(); !errors.Is(err, fault.FreezeTimeout) {
			t.Errorf("got %v, want freeze_timeout", err)
		}
	}
}

// This test asks the real kernel. Each Freeze fails before anything is frozen.
func TestOnlyAMountPointOfTheDeviceIsFrozen(t *testing.T) {
	dir := t.TempDir()
	on, _, err := statDev(dir)
	if err != nil {
		t.Fatal(err)
	}
	proc, _, err := statDev("/proc")
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc", link); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]Target{
		"a directory that is no mount point": {dir, on},
		"a directory below a mount point":    {"/proc/sys", proc},
		"a mount point of another device":    {"/proc", on},
		"a link to a mount point":            {link, proc},
		"nothing":                            {filepath.Join(dir, "no-such"), on},
	} {
		if _, err := Freeze(t.Context(), []Target{{"/proc", proc}, target}, time.Second); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, want not_found", name, err)
		}
	}
	f, err := openMountPoint(Target{"/proc", proc})
	if err != nil {
		t.Fatalf("a mount point of its device: %v", err)
	}
	f.Close()
}

func TestTargetsOfOneDeviceAreFrozenOnce(t *testing.T) {
	proc, _, err := statDev("/proc")
	if err != nil {
		t.Fatal(err)
	}
	freezes, err := openAll([]Target{{"/proc", proc}, {"/proc", proc}})
	if err != nil || len(freezes) != 1 || len(freezes[0].points) != 2 {
		t.Fatalf("%d freezes, %v", len(freezes), err)
	}
	_ = freezes[0].thaw()
}
