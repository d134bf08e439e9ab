package restore

import (
	"context"
	"errors"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
)

// stubBackend is a backend whose Describe returns describeErr and whose List ends only when its context does.
type stubBackend struct {
	backup.Backend
	describeErr error
}

func (b stubBackend) Describe(context.Context, backup.Config) (backup.Description, error) {
	return backup.Description{}, b.describeErr
}

func (b stubBackend) List(ctx context.Context, _ backup.Config, _ string) ([]backup.Stored, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// The list may take long: it is cancelled when looking at the server fails. Errors of both sides are reported together.
func TestQueryBackendReportsHostAndBackendErrors(t *testing.T) {
	t.Chdir(t.TempDir()) // where the run has its files
	options, volumes := errors.New("no such option"), errors.New("no such volume")
	for _, describeErr := range []error{nil, options} {
		r := &restoreRun{host: &access.Host{}}
		_, _, err := r.queryBackend(t.Context(), stubBackend{describeErr: describeErr}, func() error { return volumes })
		if !errors.Is(err, volumes) || errors.Is(err, options) != (describeErr != nil) || errors.Is(err, context.Canceled) {
			t.Errorf("with %v: %v", describeErr, err)
		}
	}
}
