package record

import (
	"cmp"
	"context"
	"os"

	"go.pcc.com/rewind/core/backup"
)

// Storing is a backup that is to be made together with its record.
type Storing struct {
	Backend backup.Backend
	Config  backup.Config
	Tree    backup.Tree // Store sets Records and Record
	Keeper  Keeper      // keeps the new record

	// Recording says that the backend writes the record itself.
	Recording bool

	// See runs a function in the mount namespace in which the tree can be seen. If it is nil, that is the caller's.
	See func(func() error) error
}

// Store has the backend store the tree, and keeps the record of it. A record that cannot be made or kept does not fail
// the backup: the next backup reads all files again, and a warning in Stored.Warnings says so. The faults are those of
// the backend's Store.
func (s Storing) Store(ctx context.Context, report backup.Report) (backup.Stored, error) {
	file, recordErr := s.Keeper.NewFile()
	defer os.Remove(file)
	s.Tree.Records, s.Tree.Record = s.Keeper.Dir, file
	warnings, err := s.record(ctx, report)
	recordErr = cmp.Or(recordErr, err)
	if ctx.Err() != nil {
		return backup.Stored{}, context.Cause(ctx)
	}
	stored, err := s.Backend.Store(ctx, s.Config, s.Tree, report)
	stored.Warnings = append(stored.Warnings, warnings...)
	if stored.ID == "" {
		return stored, err
	}
	if recordErr == nil {
		recordErr = s.Keeper.Keep(stored, file)
	}
	if recordErr != nil {
		stored.Warnings = append(stored.Warnings, Unrecorded(recordErr))
	}
	return stored, err
}

// record makes the record of the tree, unless the backend does.
func (s Storing) record(ctx context.Context, report backup.Report) (warnings []string, err error) {
	if s.Recording {
		return nil, nil
	}
	if s.See == nil {
		return Make(ctx, s.Tree, nil, nil, report)
	}
	err = s.See(func() (err error) {
		warnings, err = Make(ctx, s.Tree, nil, nil, report)
		return err
	})
	return warnings, err
}
