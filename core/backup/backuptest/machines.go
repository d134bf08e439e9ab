package backuptest

import (
	"context"
	"path/filepath"
	"slices"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// otherMachine has two machines of one name use one repository. Only the first one may change its backups; both may
// read them.
func otherMachine(tc *testCase) {
	if !tc.Machines {
		return
	}
	dir := tc.makeRoot("dat", map[string]string{"file": "content"})
	old := tc.store(tc.tree(0, dir)) // as made by a version that did not note the machine
	own, other := tc.Config, tc.Config
	own.Machine, other.Machine = "machine-1", "machine-2"
	own.Host, other.Host = "host-a", "host-a"
	tc.Config = own
	mine := tc.store(tc.tree(1, dir))

	_, err := tc.Backend.Store(tc.ctx, other, tc.tree(2, dir), ignoreProgress)
	tc.wantCode("Store of another machine", err, fault.Exists)
	if err != nil && fault.Of(err).Hint == "" {
		tc.Errorf("%v has no hint", err)
	}
	_, err = tc.Backend.Check(tc.ctx, other)
	tc.wantCode("Check of another machine", err, fault.Exists)
	tc.wantCode("Forget of another machine", tc.Backend.Forget(tc.ctx, other, old.ID), fault.Exists)
	if err := tc.Backend.Settle(tc.ctx, other); err != nil {
		tc.Errorf("Settle of another machine: %v", err)
	}
	tc.Config = other
	if got := ids(tc.list("host-a")); !slices.Equal(got, []string{mine.ID, old.ID}) {
		tc.Errorf("another machine lists %v", got)
	}
	tc.wantContent(mine.ID, dir, "file", "content")
	namesake := tc.tree(3, dir)
	namesake.Host = "host-b"
	tc.store(namesake)

	tc.Config = own
	if _, err := tc.Backend.Check(tc.ctx, own); err != nil {
		tc.Errorf("Check: %v", err)
	}
	if err := tc.Backend.Forget(tc.ctx, own, old.ID); err != nil {
		tc.Errorf("Forget: %v", err)
	}
	tc.store(tc.tree(4, dir))
	unknown := own
	unknown.Machine = ""
	err = tc.Backend.Present(tc.ctx, unknown, mine.ID, ignoreProgress, func(_ context.Context, p backup.Presented) error {
		if !filepath.IsAbs(p.Roots[dir]) {
			tc.Errorf("presented %v", p.Roots)
		}
		return nil
	})
	if err != nil {
		tc.Errorf("Present where the machine is not known: %v", err)
	}
}
