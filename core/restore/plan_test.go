package restore

import (
	"context"
	"errors"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/run"
)

// asked is a backend with these answers; it lists nothing until it is told to end.
type asked struct {
	backup.Backend
	wrong error
}

func (a asked) Describe(context.Context, backup.Config) (backup.Description, error) {
	return backup.Description{}, a.wrong
}

func (a asked) List(ctx context.Context, _ backup.Config, _ string) ([]backup.Stored, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A list may take long: it ends when there is nothing to restore into. What is wrong on both sides is said at once.
func TestTheBackendIsAskedWhileTheHostIsLookedAt(t *testing.T) {
	t.Chdir(t.TempDir()) // where the journey has its files
	options, volumes := errors.New("no such option"), errors.New("no such volume")
	for _, wrong := range []error{nil, options} {
		w := &work{host: &run.Host{}}
		_, _, err := w.ask(t.Context(), asked{wrong: wrong}, func() error { return volumes })
		if !errors.Is(err, volumes) || errors.Is(err, options) != (wrong != nil) || errors.Is(err, context.Canceled) {
			t.Errorf("with %v: %v", wrong, err)
		}
	}
}
