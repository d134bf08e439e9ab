package backuptest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// cases are what every backend must keep to, in process and over the wire.
var cases = map[string]func(*bench){
	"says what it is":                       description,
	"names every wrong option":              wrongOptions,
	"presents what was stored":              roundTrip,
	"keeps the attributes that it says":     attributes,
	"a second Store adds what changed":      incremental,
	"lists the newest first, by host":       listing,
	"knows the order without the clock":     sequence,
	"an unknown ID is not found":            unknownID,
	"a missing repository has its own code": missing,
	"Check changes nothing":                 checking,
	"use's error comes back as it is":       usersError,
	"Present ends with its context":         cancelledUse,
	"a cancelled Store leaves nothing":      cancelledStore,
	"what cannot be read is said":           unreadable,
	"Forget forgets one":                    forgetting,
	"Settle leaves what is complete alone":  settling,
	"what looks the same is stored":         disguised,
	"so it is under other names":            renamed,
	"a record is believed, or all is read":  believing,
	"without a record all is read":          unrecorded,
}

func description(b *bench) {
	d, err := b.Backend.Describe(b.ctx, b.Config)
	if err != nil {
		b.Fatal(err)
	}
	if d.Name == "" || d.Version == "" {
		b.Errorf("Describe: %+v: name and version are for people", d)
	}
	if !slices.Contains(d.Local, b.Local) {
		b.Errorf("Local is %q, without %q", d.Local, b.Local)
	}
	for _, path := range d.Local {
		if !filepath.IsAbs(path) {
			b.Errorf("Local names %q", path)
		}
	}
	if _, err := b.Backend.Describe(b.ctx, b.Missing); err != nil {
		b.Errorf("Describe opens the repository: %v", err)
	}
}

func wrongOptions(b *bench) {
	wrong := backup.Config{Options: map[string]any{"no_such_option": "x", "nor_this_one": 1}, Scratch: b.Config.Scratch}
	_, err := b.Backend.Describe(b.ctx, wrong)
	b.wantCode("Describe", err, fault.BadArguments)
	for name := range wrong.Options {
		if err != nil && !strings.Contains(err.Error(), name) {
			b.Errorf("%v does not name %s", err, name)
		}
	}
}

// roundTrip stores two roots, one of which holds a third one, and compares all of what is presented.
func roundTrip(b *bench) {
	dat, app := filepath.Join(b.work, "dat"), filepath.Join(b.work, "app")
	wal := filepath.Join(dat, "wal")
	for i, dir := range []string{wal, app, dat} { // dat last: what is made in a directory gives it a new time
		if err := os.MkdirAll(dir, 0o750); err != nil {
			b.Fatal(err)
		}
		grow(b.T, dir, uint64(i))
	}
	want := map[string]map[string]entry{dat: look(b.T, dat, "wal"), wal: look(b.T, wal), app: look(b.T, app)}

	t := b.tree(0, dat, wal, app)
	stored := b.store(t)
	b.isStored(stored, t)
	if stored.Files <= 0 || stored.Bytes <= 3<<20 || stored.Added <= 0 {
		b.Errorf("figures of the backup: %+v", stored)
	}
	for root, tree := range want {
		if diff := cmp.Diff(tree, look(b.T, root, without(root, dat)...)); diff != "" {
			b.Errorf("Store changed %s (-before +after):\n%s", root, diff)
		}
	}
	b.presented(stored.ID, func(_ context.Context, p backup.Presented) error {
		if len(p.Roots) != len(want) {
			b.Errorf("presented %v, want the roots %v", p.Roots, t.Roots)
		}
		for root, tree := range want {
			if diff := cmp.Diff(tree, look(b.T, p.Roots[root], without(root, dat)...)); diff != "" {
				b.Errorf("%s is presented otherwise (-stored +presented):\n%s", root, diff)
			}
			if p.Direct {
				direct(b.T, p.Roots[root])
			}
		}
		return nil
	})
}

// without is what is not compared as a part of a root, because it is a root itself.
func without(root, dat string) []string {
	if root == dat {
		return []string{"wal"}
	}
	return nil
}

func incremental(b *bench) {
	dir := b.folder("dat", map[string]string{"same": noise(4 << 20), "changed": "first"})
	first := b.store(b.tree(0, dir))
	b.folder("dat", map[string]string{"changed": "second"})
	second := b.store(b.tree(1, dir))
	if !b.Whole && second.Added > first.Added/4 {
		b.Errorf("one small file changed, and the repository grew by %d after %d bytes", second.Added, first.Added)
	}
	b.holds(first.ID, dir, "changed", "first")
	b.holds(second.ID, dir, "changed", "second")
}

func listing(b *bench) {
	if all := b.list("host-a"); len(all) != 0 {
		b.Errorf("an empty repository lists %+v", all)
	}
	dir := b.folder("dat", map[string]string{"file": "content"})
	old := b.store(b.tree(0, dir))
	b.store(b.tree(2, dir))
	b.store(b.tree(1, dir)) // the backup's time is the set's, not that of the Store
	b.store(b.tree(2, dir))
	other := b.tree(3, dir)
	other.Host = "host-b"
	b.store(other)

	own := b.list("host-a")
	if len(own) != 4 {
		b.Fatalf("host-a has %d backups, want 4: %+v", len(own), own)
	}
	for i, minute := range []int{2, 2, 1, 0} {
		b.isStored(own[i], b.tree(minute, dir))
	}
	if own[0].ID == own[1].ID {
		b.Error("two backups of one instant have one ID")
	}
	if own[3].ID != old.ID || own[3].Incomplete {
		b.Errorf("listed %+v for %+v", own[3], old)
	}
	all := b.list("")
	if len(all) != 5 || all[0].Host != "host-b" {
		b.Errorf("of all hosts: %+v", all)
	}
}

// sequence stores while the clock runs ahead, and when it has been put right.
func sequence(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	var want []string
	for n, minute := range []int{1, 5, 2, 0} {
		if n == 2 { // as a run does before each of its own
			if _, err := b.Backend.Check(b.ctx, b.Config); err != nil {
				b.Fatalf("Check: %v", err)
			}
		}
		stored := b.store(b.tree(minute, dir))
		if stored.Sequence != int64(n+1) {
			b.Errorf("backup %d of the host got the number %d", n+1, stored.Sequence)
		}
		want = append([]string{stored.ID}, want...)
	}
	other := b.tree(3, dir)
	other.Host = "host-b"
	if stored := b.store(other); stored.Sequence != 1 {
		b.Errorf("the first backup of another host got the number %d", stored.Sequence)
	}
	own := b.list("host-a")
	backup.NewestFirst(own)
	if diff := cmp.Diff(want, ids(own)); diff != "" {
		b.Errorf("in the order in which they were made, the last one first (-want +got):\n%s", diff)
	}
}

func unknownID(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	stored := b.store(b.tree(0, dir))
	for _, id := range []string{"no-such-backup", "", "..", "../" + stored.ID, "0123456789abcdef", stored.ID + "x", "-h", "latest"} {
		err := b.Backend.Present(b.ctx, b.Config, id, ignore, func(context.Context, backup.Presented) error {
			b.Errorf("ID %q was presented", id)
			return nil
		})
		b.wantCode("Present of "+id, err, fault.NotFound)
		b.wantCode("Forget of "+id, b.Backend.Forget(b.ctx, b.Config, id), fault.NotFound)
	}
	if own := b.list("host-a"); len(own) != 1 {
		b.Errorf("listed afterwards: %+v", own)
	}
}

func missing(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	_, err := b.Backend.Store(b.ctx, b.Missing, b.tree(0, dir), ignore)
	b.wantCode("Store", err, fault.RepositoryMissing)
	_, err = b.Backend.List(b.ctx, b.Missing, "host-a")
	b.wantCode("List", err, fault.RepositoryMissing)
	_, err = b.Backend.Check(b.ctx, b.Missing)
	b.wantCode("Check", err, fault.RepositoryMissing)
	b.wantCode("Present", b.Backend.Present(b.ctx, b.Missing, "id", ignore, nil), fault.RepositoryMissing)
	b.wantCode("Forget", b.Backend.Forget(b.ctx, b.Missing, "id"), fault.RepositoryMissing)
}

func checking(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	for range 2 {
		before := b.list("")
		if _, err := b.Backend.Check(b.ctx, b.Config); err != nil {
			b.Errorf("Check: %v", err)
		}
		if diff := cmp.Diff(before, b.list("")); diff != "" {
			b.Errorf("Check changed the list:\n%s", diff)
		}
		b.store(b.tree(len(before), dir))
	}
}

func usersError(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	stored := b.store(b.tree(0, dir))
	own := errors.New("the user's own")
	err := b.Backend.Present(b.ctx, b.Config, stored.ID, ignore, func(context.Context, backup.Presented) error { return own })
	if err != own {
		b.Errorf("Present returned %v, want use's error itself", err)
	}
	b.holds(stored.ID, dir, "file", "content")
}

func cancelledUse(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	stored := b.store(b.tree(0, dir))
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	err := b.Backend.Present(ctx, b.Config, stored.ID, ignore, func(ctx context.Context, _ backup.Presented) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		b.Errorf("Present returned %v, want that it was cancelled", err)
	}
	b.holds(stored.ID, dir, "file", "content")
}

// soon bounds the end of a method whose context has ended.
const soon = 20 * time.Second

func cancelledStore(b *bench) {
	dir := b.folder("dat", map[string]string{"large": noise(64 << 20)})
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	if _, err := b.Backend.Store(ended, b.Config, b.tree(0, dir), ignore); !errors.Is(err, context.Canceled) {
		b.Errorf("Store with a context that has ended: %v", err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	stored, err := b.Backend.Store(ctx, b.Config, b.tree(1, dir), ignore)
	if took := time.Since(start); took > soon {
		b.Errorf("a cancelled Store took %v", took)
	}
	var want []string // it may have been quick
	if err == nil {
		want = []string{stored.ID}
	} else if !errors.Is(err, context.DeadlineExceeded) {
		b.Errorf("a cancelled Store returned %v, want that the deadline passed", err)
	}
	if got := ids(b.list("")); !slices.Equal(got, want) {
		b.Errorf("listed after it: %v, want %v", got, want)
	}
	b.works(2)
}

// unreadable stores a directory whose files not even root may read.
func unreadable(b *bench) {
	dir, shut := b.folder("dat", map[string]string{"file": "content"}), writeOnly(b.T)
	t := b.tree(0, dir, shut)
	stored, err := b.Backend.Store(b.ctx, b.Config, t, ignore)
	b.wantCode("Store", err, fault.SourceUnreadable)
	if text := strings.Join(paths(err), "\n"); !strings.Contains(text, shut) {
		b.Errorf("the fact paths is %q, without what lies in %s", text, shut)
	}
	own := b.list("host-a")
	if len(own) != 1 || !own[0].Incomplete {
		b.Fatalf("listed: %+v, want one that is incomplete", own)
	}
	if stored.ID != own[0].ID || !stored.Incomplete {
		b.Errorf("Store returned %+v beside the fault, want what List returns: %+v", stored, own[0])
	}
	b.isStored(own[0], t)
	b.holds(own[0].ID, dir, "file", "content")
}

func forgetting(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	first, second := b.store(b.tree(0, dir)), b.store(b.tree(1, dir))
	if err := b.Backend.Forget(b.ctx, b.Config, first.ID); err != nil {
		b.Fatalf("Forget: %v", err)
	}
	if got := ids(b.list("host-a")); !slices.Equal(got, []string{second.ID}) {
		b.Errorf("listed: %v, want %s", got, second.ID)
	}
	err := b.Backend.Present(b.ctx, b.Config, first.ID, ignore, func(context.Context, backup.Presented) error { return nil })
	b.wantCode("Present of what was forgotten", err, fault.NotFound)
	b.wantCode("Forget again", b.Backend.Forget(b.ctx, b.Config, first.ID), fault.NotFound)
	b.holds(second.ID, dir, "file", "content")
}

func settling(b *bench) {
	dir := b.folder("dat", map[string]string{"file": "content"})
	stored := b.store(b.tree(0, dir))
	for range 2 {
		if err := b.Backend.Settle(b.ctx, b.Config); err != nil {
			b.Fatalf("Settle: %v", err)
		}
	}
	if got := ids(b.list("")); !slices.Equal(got, []string{stored.ID}) {
		b.Errorf("listed: %v, want %s", got, stored.ID)
	}
	b.works(1)
}

// killed kills the backend with all it started while it stores, at its first word or, should it be short of words, at
// some moment. The next process settles what that left.
func killed(b *bench) {
	dir := b.folder("dat", map[string]string{"large": noise(64 << 20)})
	c := Start(b.T)
	moment, cancel := context.WithTimeout(b.ctx, 200*time.Millisecond)
	defer cancel()
	context.AfterFunc(moment, func() { _ = syscall.Kill(c.PID(), syscall.SIGKILL) })
	_, err := c.Store(b.ctx, b.Config, b.tree(0, dir), func(backup.Progress) { cancel() })
	quick := err == nil // it is complete
	if err := c.Close(); err != nil {
		b.Fatalf("close the killed backend: %v", err)
	}
	b.Backend = Start(b.T)
	if err := b.Backend.Settle(b.ctx, b.Config); err != nil {
		b.Fatalf("Settle: %v", err)
	}
	if all := b.list(""); len(all) > 0 != quick {
		b.Errorf("listed: %+v after a Store that was killed (was quick enough: %v)", all, quick)
	}
	b.works(1)
}
