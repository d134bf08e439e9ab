package snapset

import (
	"errors"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// The overflowed set is gone when the new one cannot be taken. Whoever named no volumes could not take it again without
// knowing of which volumes it was.
func TestFailedReplacementSaysThatSetIsGone(t *testing.T) {
	noFstab(t)
	srv := newServer(t)
	p := srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	srv.Fill("vg00/dat_s", 100)
	op := srv.operation(Request{State: Present, Replace: true})
	op.commands, op.server = command.NewRecorder(srv), Server{
		StateDir: t.TempDir(), Mounts: func() ([]filesystem.Mount, error) { return srv.mounts, nil },
		View: func(*lvm.Report, []filesystem.Mount) *View { return srv.view() },
	}
	srv.FailOn(errors.New("no such luck"), "lvcreate")
	_, err := op.makePresent(t.Context())
	expectFault(t, err, fault.CommandFailed, "set s had overflowed and was removed", "volumes=vg00/dat,vg00/pccehr")
	if set, err := Find(srv.report(), "s"); set != nil || err != nil {
		t.Error(set, err)
	}
}
