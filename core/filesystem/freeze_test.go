package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// kernel plays the file systems of a test: it knows what is frozen, and can
// keep a freeze waiting.
type kernel struct {
	mu     sync.Mutex
	frozen map[string]bool
	thaws  int
	refuse map[string]error         // of FIFREEZE
	wait   map[string]chan struct{} // FIFREEZE blocks until it is closed
}

func newKernel() *kernel {
	return &kernel{frozen: map[string]bool{}, refuse: map[string]error{}, wait: map[string]chan struct{}{}}
}

func (k *kernel) ioctl(name string) func(*os.File, uint) error {
	return func(_ *os.File, request uint) error {
		if blocked := k.wait[name]; request == fiFreeze && blocked != nil {
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

func (k *kernel) holds(t *testing.T, names ...string) []*hold {
	t.Helper()
	var holds []*hold
	for _, name := range names {
		dir, err := os.Open("/proc") // syncfs of it is quick
		if err != nil {
			t.Fatal(err)
		}
		holds = append(holds, &hold{points: []string{name}, dir: dir, ioctl: k.ioctl(name)})
	}
	return holds
}

func (k *kernel) isFrozen(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.frozen[name]
}

// thawed waits until none of the file systems is frozen, which happens by itself.
func (k *kernel) thawed(t *testing.T, names ...string) {
	t.Helper()
	until := time.Now().Add(10 * time.Second)
	for slices.ContainsFunc(names, k.isFrozen) {
		if time.Now().After(until) {
			t.Fatalf("still frozen: %v", names)
		}
		time.Sleep(time.Millisecond)
	}
}

// What is frozen by this program has a mark while it may be frozen; what another program froze has none.
func TestOnlyOurOwnFreezeIsMarked(t *testing.T) {
	k := newKernel()
	k.frozen["/theirs"] = true
	holds := k.holds(t, "/ours", "/theirs")
	for i, h := range holds {
		h.mark = markOf(t.TempDir(), Dev{Major: 8, Minor: uint32(i)})
	}
	if err := holds[0].freeze(); err != nil || !holds[0].mark.isSet() {
		t.Errorf("frozen: %v, marked: %v", err, holds[0].mark.isSet())
	}
	if err := holds[1].freeze(); !errors.Is(err, fault.Busy) || holds[1].mark.isSet() {
		t.Errorf("frozen by another: %v, marked: %v", err, holds[1].mark.isSet())
	}
	if err := fault.All(holds[0].thaw(), holds[1].thaw()); err != nil || holds[0].mark.isSet() {
		t.Errorf("thawed: %v, marked: %v", err, holds[0].mark.isSet())
	}
	if !k.isFrozen("/theirs") {
		t.Error("another program's freeze was thawed")
	}
}

func TestFreezeAndThaw(t *testing.T) {
	k := newKernel()
	f, err := freezeAll(t.Context(), k.holds(t, "/a", "/b"), time.Minute)
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
		{unix.EBUSY, fault.Busy}, {unix.EOPNOTSUPP, fault.Unsupported}, {unix.EPERM, fault.NotRoot}, {unix.EIO, fault.Internal},
	} {
		k := newKernel()
		k.refuse["/b"] = c.refusal
		_, err := freezeAll(t.Context(), k.holds(t, "/a", "/b", "/c"), time.Minute)
		if !errors.Is(err, c.code) {
			t.Errorf("%v: %v, want %s", c.refusal, err, c.code)
		}
		if k.isFrozen("/a") || k.isFrozen("/c") {
			t.Errorf("%v: something is still frozen", c.refusal)
		}
	}
}

// What somebody else froze is not ours to thaw.
func TestFreezeLeavesAnothersFreezeAlone(t *testing.T) {
	k := newKernel()
	k.frozen["/b"] = true
	_, err := freezeAll(t.Context(), k.holds(t, "/a", "/b"), time.Minute)
	if !errors.Is(err, fault.Busy) {
		t.Errorf("got %v, want busy", err)
	}
	if k.isFrozen("/a") || !k.isFrozen("/b") {
		t.Errorf("/a frozen %v, /b frozen %v", k.isFrozen("/a"), k.isFrozen("/b"))
	}
}

func TestFreezeExpires(t *testing.T) {
	k := newKernel()
	f, err := freezeAll(t.Context(), k.holds(t, "/a", "/b"), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	k.thawed(t, "/a", "/b")
	if err := f.Thaw(); !errors.Is(err, fault.FreezeTimeout) {
		t.Errorf("thaw of all after the limit: %v, want freeze_timeout", err)
	}
}

func TestFreezeEndsWithItsContext(t *testing.T) {
	k := newKernel()
	ctx, cancel := context.WithCancel(t.Context())
	f, err := freezeAll(ctx, k.holds(t, "/a"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	k.thawed(t, "/a")
	if err := f.Thaw(); !errors.Is(err, fault.FreezeTimeout) {
		t.Errorf("thaw of all after the context ended: %v, want freeze_timeout", err)
	}
}

// A freeze that hangs in the kernel cannot be called off. It must not stay when
// it comes back, after nobody waits for it any more.
func TestLateFreezeIsThawed(t *testing.T) {
	k := newKernel()
	k.wait["/slow"] = make(chan struct{})
	holds := k.holds(t, "/a", "/slow")
	returned := make(chan struct{})
	slow := holds[1].ioctl
	holds[1].ioctl = func(f *os.File, request uint) error {
		err := slow(f, request)
		if request == fiThaw {
			close(returned)
		}
		return err
	}
	_, err := freezeAll(t.Context(), holds, 20*time.Millisecond)
	if !errors.Is(err, fault.FreezeTimeout) || !errors.Is(err, ErrFreezing) {
		t.Fatalf("got %v, want freeze_timeout, and that a freeze is under way", err)
	}
	if k.isFrozen("/a") {
		t.Error("/a is still frozen")
	}
	close(k.wait["/slow"])
	<-returned
	if k.isFrozen("/slow") {
		t.Error("/slow stays frozen")
	}
}

func TestThawTellsThatTheInstantIsLost(t *testing.T) {
	k := newKernel()
	f, err := freezeAll(t.Context(), k.holds(t, "/a"), time.Minute)
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

// These ask the real kernel, and stop before anything is frozen.
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
	holds, err := openAll([]Target{{"/proc", proc}, {"/proc", proc}})
	if err != nil || len(holds) != 1 || len(holds[0].points) != 2 {
		t.Fatalf("%d holds, %v", len(holds), err)
	}
	_ = holds[0].thaw()
}
