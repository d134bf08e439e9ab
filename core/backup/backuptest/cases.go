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

// cases are run with every backend, in process and over the wire.
var cases = map[string]func(*testCase){
	"Describe returns name and places":            describes,
	"names every wrong option":                    namesWrongOptions,
	"presents what was stored":                    presentsWhatWasStored,
	"keeps the documented attributes":             checkAttributes,
	"a second Store adds what changed":            addsOnlyChanges,
	"adds only changes beside other backups":      addsOnlyChangesBesideOthers,
	"lists the newest first, by host":             listsNewestFirst,
	"numbers backups whatever the clock is":       numbersBackups,
	"an unknown ID is not found":                  unknownIDIsNotFound,
	"a missing repository has its own code":       missingRepository,
	"Check changes nothing":                       checkChangesNothing,
	"Present returns the error of use":            returnsErrorOfUse,
	"Present ends with its context":               presentEndsWithContext,
	"a cancelled Store leaves nothing":            cancelledStoreLeavesNothing,
	"names files that cannot be read":             unreadableFiles,
	"Forget forgets one":                          forgetsOne,
	"a backup without content is incomplete":      lostContent,
	"a backup with a damaged entry is incomplete": damagedEntry,
	"Settle leaves complete backups alone":        settleKeepsComplete,
	"Settle leaves foreign files alone":           settleKeepsForeign,
	"tells machines of one name apart":            otherMachine,
	"stores changes that keep size and time":      sameSizeAndTime,
	"stores such changes of renamed files":        sameSizeAndTimeRenamed,
	"trusts a record, or reads all files":         falseRecord,
	"reads all files without a record":            missingRecord,
}

func describes(tc *testCase) {
	d, err := tc.Backend.Describe(tc.ctx, tc.Config)
	if err != nil {
		tc.Fatal(err)
	}
	if d.Name == "" || d.Version == "" {
		tc.Errorf("Describe: %+v: name or version is empty", d)
	}
	if !slices.Contains(d.Local, tc.Local) {
		tc.Errorf("Local is %q, without %q", d.Local, tc.Local)
	}
	for _, path := range d.Local {
		if !filepath.IsAbs(path) {
			tc.Errorf("Local names %q", path)
		}
	}
	if _, err := tc.Backend.Describe(tc.ctx, tc.Missing); err != nil {
		tc.Errorf("Describe opens the repository: %v", err)
	}
}

func namesWrongOptions(tc *testCase) {
	wrong := backup.Config{Options: map[string]any{"no_such_option": "x", "nor_this_one": 1}, Scratch: tc.Config.Scratch}
	_, err := tc.Backend.Describe(tc.ctx, wrong)
	tc.wantCode("Describe", err, fault.BadArguments)
	for name := range wrong.Options {
		if err != nil && !strings.Contains(err.Error(), name) {
			tc.Errorf("%v does not name %s", err, name)
		}
	}
}

// presentsWhatWasStored stores three roots, one of which is inside another, and compares everything that is presented.
func presentsWhatWasStored(tc *testCase) {
	dat, app := filepath.Join(tc.dir, "dat"), filepath.Join(tc.dir, "app")
	wal := filepath.Join(dat, "wal")
	for i, dir := range []string{wal, app, dat} { // dat last, because making wal changes the times of dat
		if err := os.MkdirAll(dir, 0o750); err != nil {
			tc.Fatal(err)
		}
		makeTree(tc.T, dir, uint64(i))
	}
	want := map[string]map[string]entry{
		dat: readTree(tc.T, dat, "wal"), wal: readTree(tc.T, wal), app: readTree(tc.T, app),
	}

	t := tc.tree(0, dat, wal, app)
	stored := tc.store(t)
	tc.checkStored(stored, t)
	if stored.Files <= 0 || stored.Bytes <= 3<<20 || stored.Added <= 0 {
		tc.Errorf("figures of the backup: %+v", stored)
	}
	for root, tree := range want {
		if diff := cmp.Diff(tree, readTree(tc.T, root, excludedFrom(root, dat)...)); diff != "" {
			tc.Errorf("Store changed %s (-before +after):\n%s", root, diff)
		}
	}
	tc.present(stored.ID, func(_ context.Context, p backup.Presented) error {
		if len(p.Roots) != len(want) {
			tc.Errorf("presented %v, want the roots %v", p.Roots, t.Roots)
		}
		for root, tree := range want {
			if diff := cmp.Diff(tree, readTree(tc.T, p.Roots[root], excludedFrom(root, dat)...)); diff != "" {
				tc.Errorf("%s is not presented as it was stored (-stored +presented):\n%s", root, diff)
			}
			if p.Direct {
				checkDirectReads(tc.T, p.Roots[root])
			}
		}
		return nil
	})
}

// excludedFrom returns what is not compared as part of a root, because it is a root itself.
func excludedFrom(root, dat string) []string {
	if root == dat {
		return []string{"wal"}
	}
	return nil
}

func addsOnlyChanges(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"same": incompressible(4 << 20), "changed": "first"})
	first := tc.store(tc.tree(0, dir))
	tc.makeRoot("dat", map[string]string{"changed": "second"})
	second := tc.store(tc.tree(1, dir))
	if !tc.Whole && second.Added > first.Added/4 {
		tc.Errorf("one small file changed, and the repository grew by %d after %d bytes", second.Added, first.Added)
	}
	tc.wantContent(first.ID, dir, "changed", "first")
	tc.wantContent(second.ID, dir, "changed", "second")
}

func listsNewestFirst(tc *testCase) {
	if all := tc.list("host-a"); len(all) != 0 {
		tc.Errorf("an empty repository lists %+v", all)
	}
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	old := tc.store(tc.tree(0, dir))
	tc.store(tc.tree(2, dir))
	tc.store(tc.tree(1, dir)) // its set is older than that of the previous Store, which the list's order must show
	tc.store(tc.tree(2, dir))
	other := tc.tree(3, dir)
	other.Host = "host-b"
	tc.store(other)

	listed := tc.list("host-a")
	if len(listed) != 4 {
		tc.Fatalf("host-a has %d backups, want 4: %+v", len(listed), listed)
	}
	for i, minute := range []int{2, 2, 1, 0} {
		tc.checkStored(listed[i], tc.tree(minute, dir))
	}
	if listed[0].ID == listed[1].ID {
		tc.Error("two backups of one instant have one ID")
	}
	if listed[3].ID != old.ID || listed[3].Incomplete {
		tc.Errorf("listed %+v for %+v", listed[3], old)
	}
	all := tc.list("")
	if len(all) != 5 || all[0].Host != "host-b" {
		tc.Errorf("of all hosts: %+v", all)
	}
}

// numbersBackups stores while the clock runs ahead, and after it has been corrected.
func numbersBackups(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	var want []string
	for n, minute := range []int{1, 5, 2, 0} {
		if n == 2 { // a run also calls Check before Store
			if _, err := tc.Backend.Check(tc.ctx, tc.Config); err != nil {
				tc.Fatalf("Check: %v", err)
			}
		}
		stored := tc.store(tc.tree(minute, dir))
		if stored.Sequence != int64(n+1) {
			tc.Errorf("backup %d of the host got the number %d", n+1, stored.Sequence)
		}
		want = append([]string{stored.ID}, want...)
	}
	other := tc.tree(3, dir)
	other.Host = "host-b"
	if stored := tc.store(other); stored.Sequence != 1 {
		tc.Errorf("the first backup of another host got the number %d", stored.Sequence)
	}
	listed := tc.list("host-a")
	backup.NewestFirst(listed)
	if diff := cmp.Diff(want, ids(listed)); diff != "" {
		tc.Errorf("NewestFirst does not sort by the order of the Stores (-want +got):\n%s", diff)
	}
}

func unknownIDIsNotFound(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	stored := tc.store(tc.tree(0, dir))
	for _, id := range []string{
		"no-such-backup", "", "..", "../" + stored.ID, "0123456789abcdef", stored.ID + "x", "-h", "latest",
	} {
		err := tc.Backend.Present(tc.ctx, tc.Config, id, ignoreProgress, func(context.Context, backup.Presented) error {
			tc.Errorf("ID %q was presented", id)
			return nil
		})
		tc.wantCode("Present of "+id, err, fault.NotFound)
		tc.wantCode("Forget of "+id, tc.Backend.Forget(tc.ctx, tc.Config, id), fault.NotFound)
	}
	if listed := tc.list("host-a"); len(listed) != 1 {
		tc.Errorf("listed afterwards: %+v", listed)
	}
}

func missingRepository(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	_, err := tc.Backend.Store(tc.ctx, tc.Missing, tc.tree(0, dir), ignoreProgress)
	tc.wantCode("Store", err, fault.RepositoryMissing)
	_, err = tc.Backend.List(tc.ctx, tc.Missing, "host-a")
	tc.wantCode("List", err, fault.RepositoryMissing)
	_, err = tc.Backend.Check(tc.ctx, tc.Missing)
	tc.wantCode("Check", err, fault.RepositoryMissing)
	tc.wantCode("Present", tc.Backend.Present(tc.ctx, tc.Missing, "id", ignoreProgress, nil), fault.RepositoryMissing)
	tc.wantCode("Forget", tc.Backend.Forget(tc.ctx, tc.Missing, "id"), fault.RepositoryMissing)
}

func checkChangesNothing(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	for range 2 {
		before := tc.list("")
		if _, err := tc.Backend.Check(tc.ctx, tc.Config); err != nil {
			tc.Errorf("Check: %v", err)
		}
		if diff := cmp.Diff(before, tc.list("")); diff != "" {
			tc.Errorf("Check changed the list:\n%s", diff)
		}
		tc.store(tc.tree(len(before), dir))
	}
}

func returnsErrorOfUse(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	stored := tc.store(tc.tree(0, dir))
	useErr := errors.New("error of use")
	use := func(context.Context, backup.Presented) error { return useErr }
	err := tc.Backend.Present(tc.ctx, tc.Config, stored.ID, ignoreProgress, use)
	if err != useErr {
		tc.Errorf("Present returned %v, want use's error itself", err)
	}
	tc.wantContent(stored.ID, dir, "file", "content")
}

func presentEndsWithContext(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	stored := tc.store(tc.tree(0, dir))
	ctx, cancel := context.WithCancel(tc.ctx)
	defer cancel()
	use := func(ctx context.Context, _ backup.Presented) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	err := tc.Backend.Present(ctx, tc.Config, stored.ID, ignoreProgress, use)
	if !errors.Is(err, context.Canceled) {
		tc.Errorf("Present returned %v, want that it was cancelled", err)
	}
	tc.wantContent(stored.ID, dir, "file", "content")
}

// cancelLimit is how long a method may take to return after its context has ended.
const cancelLimit = 20 * time.Second

func cancelledStoreLeavesNothing(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"large": incompressible(64 << 20)})
	ended, cancel := context.WithCancel(tc.ctx)
	cancel()
	if _, err := tc.Backend.Store(ended, tc.Config, tc.tree(0, dir), ignoreProgress); !errors.Is(err, context.Canceled) {
		tc.Errorf("Store with a context that has ended: %v", err)
	}
	ctx, cancel := context.WithTimeout(tc.ctx, 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	stored, err := tc.Backend.Store(ctx, tc.Config, tc.tree(1, dir), ignoreProgress)
	if took := time.Since(start); took > cancelLimit {
		tc.Errorf("a cancelled Store took %v", took)
	}
	var want []string
	if err == nil { // the Store was quick and complete before the deadline
		want = []string{stored.ID}
	} else if !errors.Is(err, context.DeadlineExceeded) {
		tc.Errorf("a cancelled Store returned %v, want that the deadline passed", err)
	}
	if got := ids(tc.list("")); !slices.Equal(got, want) {
		tc.Errorf("listed after it: %v, want %v", got, want)
	}
	tc.checkUsable(2)
}

// unreadableFiles stores a directory whose files not even root can read.
func unreadableFiles(tc *testCase) {
	dir, unreadableRoot := tc.makeRoot("dat", map[string]string{"file": "content"}), unreadableDir(tc.T)
	t := tc.tree(0, dir, unreadableRoot)
	stored, err := tc.Backend.Store(tc.ctx, tc.Config, t, ignoreProgress)
	tc.wantCode("Store", err, fault.SourceUnreadable)
	if text := strings.Join(pathsFact(err), "\n"); !strings.Contains(text, unreadableRoot) {
		tc.Errorf("the fact paths is %q, and has no file in %s", text, unreadableRoot)
	}
	listed := tc.list("host-a")
	if len(listed) != 1 || !listed[0].Incomplete {
		tc.Fatalf("listed: %+v, want one that is incomplete", listed)
	}
	if stored.ID != listed[0].ID || !stored.Incomplete {
		tc.Errorf("Store returned %+v beside the fault, want what List returns: %+v", stored, listed[0])
	}
	tc.checkStored(listed[0], t)
	tc.wantContent(listed[0].ID, dir, "file", "content")
}

func forgetsOne(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	first, second := tc.store(tc.tree(0, dir)), tc.store(tc.tree(1, dir))
	if err := tc.Backend.Forget(tc.ctx, tc.Config, first.ID); err != nil {
		tc.Fatalf("Forget: %v", err)
	}
	if got := ids(tc.list("host-a")); !slices.Equal(got, []string{second.ID}) {
		tc.Errorf("listed: %v, want %s", got, second.ID)
	}
	use := func(context.Context, backup.Presented) error { return nil }
	err := tc.Backend.Present(tc.ctx, tc.Config, first.ID, ignoreProgress, use)
	tc.wantCode("Present of what was forgotten", err, fault.NotFound)
	tc.wantCode("Forget again", tc.Backend.Forget(tc.ctx, tc.Config, first.ID), fault.NotFound)
	tc.wantContent(second.ID, dir, "file", "content")
}

// lostContent removes the content of a backup behind the back of the backend. Such a backup must not count as one that
// is kept, fails no other backup, and can be forgotten.
func lostContent(tc *testCase) {
	if tc.Lose == nil {
		return
	}
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	kept, lost := tc.store(tc.tree(0, dir)), tc.store(tc.tree(1, dir))
	if err := tc.Lose(lost.ID); err != nil {
		tc.Fatal(err)
	}
	for _, s := range tc.list("host-a") {
		isLost := s.ID == lost.ID
		if s.Incomplete != isLost || (s.Damaged != "") != isLost {
			tc.Errorf("listed %+v, after the content of %s was removed", s, lost.ID)
		}
	}
	use := func(context.Context, backup.Presented) error { return errors.New("presented") }
	err := tc.Backend.Present(tc.ctx, tc.Config, lost.ID, ignoreProgress, use)
	tc.wantCode("Present of what was removed", err, fault.BackendFailed)
	next := tc.store(tc.tree(2, dir))
	if next.Sequence != 3 {
		tc.Errorf("the next backup got the number %d, want 3", next.Sequence)
	}
	tc.forgetLost(lost.ID, dir, next.ID, kept.ID)
}

// forgetLost forgets a backup that is damaged. The others, the newest first, must be listed then and have their file.
func (tc *testCase) forgetLost(lost, dir string, others ...string) {
	tc.Helper()
	if err := tc.Backend.Forget(tc.ctx, tc.Config, lost); err != nil {
		tc.Errorf("Forget of a damaged backup: %v", err)
	}
	if got := ids(tc.list("")); !slices.Equal(got, others) {
		tc.Errorf("listed: %v, want %v", got, others)
	}
	for _, id := range others {
		tc.wantContent(id, dir, "file", "content")
	}
}

// damagedEntry overwrites the file that describes a backup, as a failing disk may. All other backups must be listed and
// kept, and new ones made.
func damagedEntry(tc *testCase) {
	if tc.Entry == nil {
		return
	}
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	kept, lost := tc.store(tc.tree(0, dir)), tc.store(tc.tree(1, dir))
	if err := os.WriteFile(tc.Entry(lost.ID), make([]byte, 512), 0o600); err != nil {
		tc.Fatal(err)
	}
	for _, s := range tc.list("host-a") {
		if isLost := s.ID == lost.ID; s.Incomplete != isLost || (s.Damaged != "") != isLost || s.Host != "host-a" {
			tc.Errorf("listed %+v, after the entry of %s was damaged", s, lost.ID)
		}
	}
	use := func(context.Context, backup.Presented) error { return nil }
	err := tc.Backend.Present(tc.ctx, tc.Config, lost.ID, ignoreProgress, use)
	tc.wantCode("Present of a backup with a damaged entry", err, fault.BackendFailed)
	next := tc.store(tc.tree(2, dir))
	if err := tc.Backend.Settle(tc.ctx, tc.Config); err != nil {
		tc.Error(err)
	}
	tc.forgetLost(lost.ID, dir, next.ID, kept.ID)
}

func settleKeepsComplete(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	stored := tc.store(tc.tree(0, dir))
	for range 2 {
		if err := tc.Backend.Settle(tc.ctx, tc.Config); err != nil {
			tc.Fatalf("Settle: %v", err)
		}
	}
	if got := ids(tc.list("")); !slices.Equal(got, []string{stored.ID}) {
		tc.Errorf("listed: %v, want %s", got, stored.ID)
	}
	tc.checkUsable(1)
}

// settleKeepsForeign has files in the repository's directory that another program put there.
func settleKeepsForeign(tc *testCase) {
	if tc.Local == "" {
		return // the repository is not on this machine
	}
	foreign := []string{"old-server-2019.tar", "film.partial", "lost+found", ".nfs000001", "photos/one"}
	for _, name := range foreign {
		path := filepath.Join(tc.Local, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("not of a backup"), 0o600))
		if err != nil {
			tc.Fatal(err)
		}
	}
	settleKeepsComplete(tc)
	for _, name := range foreign {
		if _, err := os.Lstat(filepath.Join(tc.Local, name)); err != nil {
			tc.Errorf("a file of another program: %v", err)
		}
	}
}

// killedStore kills the process of the backend during a Store, at its first progress or after 200 ms. Close then ends
// what the backend had started, and a new process settles what is left in the repository.
func killedStore(tc *testCase) {
	dir := tc.makeRoot("dat", map[string]string{"large": incompressible(64 << 20)})
	c := Start(tc.T)
	delay, cancel := context.WithTimeout(tc.ctx, 200*time.Millisecond)
	defer cancel()
	context.AfterFunc(delay, func() { _ = syscall.Kill(c.PID(), syscall.SIGKILL) })
	_, err := c.Store(tc.ctx, tc.Config, tc.tree(0, dir), func(backup.Progress) { cancel() })
	complete := err == nil // the Store was quicker than the kill
	if err := c.Close(); err != nil {
		tc.Fatalf("close the killed backend: %v", err)
	}
	tc.Backend = Start(tc.T)
	if err := tc.Backend.Settle(tc.ctx, tc.Config); err != nil {
		tc.Fatalf("Settle: %v", err)
	}
	if all := tc.list(""); len(all) > 0 != complete {
		tc.Errorf("listed: %+v after a Store that was killed (complete before that: %v)", all, complete)
	}
	tc.checkUsable(1)
}
