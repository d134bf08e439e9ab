package run

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/fault"
)

// refuseEmptied fails if this server has stored good backups at the place and the backend lists none of the host there
// now. Then the file system of the place is most likely not mounted, and a backup would be stored on the one below,
// where the next mount hides it. dir has the jobs of this server. Fault: repository_missing.
func (op *operation) refuseEmptied(
	ctx context.Context, dir jobs.Dir, client backup.Backend, config backup.Config,
) error {
	good := dir.GoodAt(op.job())
	if len(good) == 0 {
		return nil
	}
	list, err := client.List(ctx, config, op.Use.Host)
	if err != nil {
		return err
	}
	return op.emptied(good, list)
}

// emptied is refuseEmptied for the good jobs at the place (jobs.Dir.GoodAt) and a list that the backend has returned.
func (op *operation) emptied(good []jobs.Job, list []backup.Stored) error {
	host := op.Use.Host
	if len(good) == 0 || slices.ContainsFunc(list, func(s backup.Stored) bool { return s.Host == host }) {
		return nil
	}
	var files []string
	for _, j := range good {
		files = append(files, j.File)
	}
	last := good[0].Good
	const msg = "%s held backup %s of %s, which was complete at %s, and holds none of %s now"
	return fault.New(fault.RepositoryMissing, msg, op.place(), last.ID, host, last.Ended, host).
		WithHint("mount what the backups lie on; or, if they were removed on purpose, remove %s and run the same again",
			strings.Join(files, ", "))
}

// place names the place of the backend, for people.
func (op *operation) place() string {
	for _, key := range []string{"path", "repository"} { // of the built-in backends
		if value, ok := op.Use.Options[key].(string); ok {
			return urlUser.ReplaceAllString(value, "//")
		}
	}
	return fmt.Sprintf("the repository of backend %s", op.Use.Backend)
}
