package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
)

// failingQuotaon is a quotaon(8) that fails, and records its calls.
type failingQuotaon struct{ calls *[]string }

func (q failingQuotaon) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	*q.calls = append(*q.calls, strings.Join(c.Argv, " "))
	return command.Output{}, &command.Error{Argv: c.Argv, Code: 1, Err: errors.New("exit status 1")}
}

// Quotas that were enforced are enforced again, and a failure is no more than a warning.
func TestQuotasAreEnforcedAgain(t *testing.T) {
	var calls []string
	rb := newParts(&base{commands: command.NewRecorder(failingQuotaon{&calls}), state: &State{
		Mounts: []filesystem.MountSpec{
			{Source: "/dev/vg00/none", Point: "/dat", Type: "ext4"}, {Source: "/dev/vg00/none", Point: "/x", Type: "ext4"},
		},
		Quotas: map[string][]filesystem.QuotaType{"/dat": {filesystem.UserQuota, filesystem.GroupQuota}},
	}})
	rb.volumes.enforceQuotas(t.Context())
	if want := []string{"quotaon -u -g -- /dat"}; !slices.Equal(calls, want) {
		t.Errorf("ran %q, want %q", calls, want)
	}
	if len(rb.warnings) != 1 || !strings.Contains(rb.warnings[0], "the quotas of /dat are off") {
		t.Errorf("warnings: %q", rb.warnings)
	}
}
