package record

import (
	"context"
	"os"

	"go.pcc.com/rewind/core/backup"
)

// Storing is a backup that is to be made, and recorded.
type Storing struct {
	Backend backup.Backend
	Config  backup.Config
	Tree    backup.Tree // without the fields that say where records lie
	Keeper  Keeper
	File    string // the new record until it is kept, in a directory that the backend can write to

	// Recording: the backend writes the record itself. See runs a function where the tree can be seen; nil: here.
	Recording bool
	See       func(func() error) error
}

// Store has the backend store the tree and keeps the record of it. Whether it can be kept changes nothing for the
// backup: what cannot be recorded is read once more the next time, which is a warning.
func (s Storing) Store(ctx context.Context, report backup.Report) (backup.Stored, error) {
	defer os.Remove(s.File)
	s.Tree.Records, s.Tree.Record = s.Keeper.Dir, s.File
	failed := s.record(ctx, report)
	if ctx.Err() != nil {
		return backup.Stored{}, context.Cause(ctx)
	}
	stored, err := s.Backend.Store(ctx, s.Config, s.Tree, report)
	if stored.ID == "" {
		return stored, err
	}
	if failed == nil {
		failed = s.Keeper.Keep(stored, s.File)
	}
	if failed != nil {
		stored.Warnings = append(stored.Warnings, Unrecorded(failed))
	}
	return stored, err
}

// record records the tree, unless the backend does.
func (s Storing) record(ctx context.Context, report backup.Report) error {
	if s.Recording {
		return nil
	}
	record := func() error { return Make(ctx, s.Tree, nil, nil, report) }
	if s.See == nil {
		return record()
	}
	return s.See(record)
}
