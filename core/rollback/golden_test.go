package rollback

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible/ansibletest"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// taken is the instant of the set, and begun the beginning of its rollback.
var (
	taken = time.Date(2026, 5, 4, 1, 2, 3, 0, time.UTC)
	begun = taken.Add(7 * time.Hour)
)

// inUTC has the messages name times in UTC.
func inUTC(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}

// asJSON returns a result, and after it what failed, if anything did.
func asJSON(t *testing.T, r Result, err error) []byte {
	t.Helper()
	text, marshalErr := json.Marshal(r.ForAnsible())
	if marshalErr != nil {
		t.Fatal(marshalErr)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", " "); err != nil {
		t.Fatal(err)
	}
	out.WriteString("\n")
	if err == nil {
		return out.Bytes()
	}
	text, marshalErr = json.MarshalIndent(fault.Of(err), "", " ")
	if marshalErr != nil {
		t.Fatal(marshalErr)
	}
	out.Write(text)
	out.WriteString("\n")
	return out.Bytes()
}

// Each way in which a rollback ends has the result that its golden file has, key by key.
func TestResultsAreAsInTheirGoldenFiles(t *testing.T) {
	inUTC(t)
	services := []string{"pccehr.service", "postgresql.service"}
	postgres := service.Plan{Active: services, Stop: services}
	for name, c := range map[string]struct {
		step      string
		outcome   journal.Outcome
		changed   bool
		snapshots []string
		merge     bool // the kernel merges the members
		arrange   func(rb *rollback)
	}{
		"merging":   {step: StepStarted, changed: true, merge: true},
		"merged":    {step: stepMerged, outcome: journal.Done, changed: true},
		"thin":      {step: StepStarted, changed: true, snapshots: []string{"vg00/thin_s"}, merge: true},
		"again":     {step: stepMerged, outcome: journal.Done},
		"goes-on":   {step: StepStarted, merge: true},
		"deferred":  {step: StepDeferred, changed: true},
		"not-begun": {step: stepMerging},
		"left-stopped": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.state.Start = false
		}},
		"no-service": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.state.Services = service.Plan{}
		}},
		"did-not-start": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.state.Failures = []service.Failure{{Unit: "pccehr.service", Result: "exit-code", Message: "exited with 1"}}
		}},
		"started-later": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.answers.unitsStartedNow = []string{"pccehr.service"}
		}},
		"would-start-later": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.answers.unitsStartedNow, rb.Check = []string{"pccehr.service"}, true
		}},
		"lost": {step: StepStarted, changed: true, merge: true, arrange: func(rb *rollback) {
			rb.state.Members[1].Lost = true
			rb.state.Trouble = rb.state.notRolledBack()
		}},
		"restored": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.state.Restored = &snapset.Restored{ID: "b7", Time: taken.Add(-24 * time.Hour)}
		}},
		"by-hand": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.state.ID, rb.state.Set = "", "vg00/app_s,vg00/dat_s"
		}},
		"warned": {step: StepStarted, changed: true, arrange: func(rb *rollback) {
			rb.warnings = append(rb.warnings, "the quotas of /dat are off")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := server()
			f.Fill("vg00/dat_s", 50)
			snapshots := c.snapshots
			if snapshots == nil {
				snapshots = []string{"vg00/app_s", "vg00/dat_s"}
			}
			rb := newAtMerge(t, f, snapshots...)
			rb.commands = command.NewRecorder(nil)
			rb.state.Set, rb.state.ID, rb.state.Taken, rb.state.Services = "before-upgrade", "5f3c", taken, postgres
			rb.state.Start, rb.state.Downtime = true, 4321*time.Millisecond
			if c.merge {
				if err := rb.lvm.Merge(t.Context(), snapshots...); err != nil {
					t.Fatal(err)
				}
			}
			if c.arrange != nil {
				c.arrange(rb)
			}
			e := &journal.Entry{Step: c.step, Outcome: c.outcome, Begun: begun}
			ansibletest.Golden(t, filepath.Join("testdata/results", name+".json"),
				asJSON(t, rb.answers.result(c.changed, e), rb.state.failure()))
		})
	}
}

// What --check says has the form that its golden file has.
func TestPreviewsAreAsInTheirGoldenFiles(t *testing.T) {
	inUTC(t)
	psql := filesystem.Holder{
		Kind: "process", How: "open", Path: "/dat/base/1", PID: 812, Command: "psql", Dev: filesystem.NewDev(253, 3),
	}
	for name, c := range map[string]struct {
		arrange  func(rb *rollback)
		findings findings
	}{
		"check":       {},
		"check-defer": {findings: findings{holders: []filesystem.Holder{psql}}},
		"check-end":   {findings: findings{toEnd: []processToEnd{{Holder: psql, startTicks: 7}}}},
		"check-resnapshot": {arrange: func(rb *rollback) {
			rb.Resnapshot = true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := server()
			f.Fill("vg00/dat_s", 50)
			rb := newAtMerge(t, f, "vg00/app_s", "vg00/dat_s")
			rb.commands, rb.Check = command.NewRecorder(nil), true
			rb.state.Set, rb.state.ID, rb.state.Taken = "before-upgrade", "5f3c", taken
			rb.state.Services = service.Plan{Active: []string{"postgresql.service"}, Stop: []string{"postgresql.service"}}
			if c.arrange != nil {
				c.arrange(rb)
			}
			r, err := rb.answers.preview(t.Context(), &c.findings)
			ansibletest.Golden(t, filepath.Join("testdata/results", name+".json"), asJSON(t, r, err))
		})
	}
}

// The files that a preview with --diff names are in the diff as its golden file has them.
func TestDiffIsAsInItsGoldenFile(t *testing.T) {
	diff := fileDiff(&State{Set: "before-upgrade"}, map[string]filesystem.Changes{
		"/dat": {Changed: 1, New: 3, Deleted: 1, Paths: []filesystem.Change{
			{What: "changed", Path: "base/1"}, {What: "deleted", Path: "old"}, {What: "new", Path: "new"},
			{What: "new", Path: "new/a"}, {What: "new", Path: "with\nnewline"},
		}},
		"/pccehr": {Changed: 9, Paths: []filesystem.Change{{What: "changed", Path: "log"}}},
	})
	text, err := json.MarshalIndent(diff, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	ansibletest.Golden(t, "testdata/results/diff.json", append(text, '\n'))
}

// Each refusal has the code, the message, the hint and the facts that the golden file has.
func TestFaultsAreAsInTheirGoldenFile(t *testing.T) {
	inUTC(t)
	rb := newAtMerge(t, server(), "vg00/app_s", "vg00/dat_s")
	rb.server.JournalDir = "/var/lib/rewind/journal"
	rb.Set, rb.state.Set, rb.state.Services.Active = "before-upgrade", "before-upgrade", []string{"postgresql.service"}
	rb.state.Mounts = mountsAt("/rw-test/a")
	report := readReport(t, rb)
	sel := &selection{view: snapset.NewView(report, nil)}
	volume := func(path string, change func(v *lvm.Volume)) *lvm.Volume {
		v, ok := report.ByPath(path)
		if !ok {
			t.Fatal(path)
		}
		changed := *v
		change(&changed)
		return &changed
	}
	memberFault := func(v *lvm.Volume) error {
		_, err := newMember(report, v)
		return err
	}
	m := rb.state.Members[1]
	cause := fault.New(fault.CommandFailed, "lvconvert: exit code 5: No space left on device").WithHint("make room")
	holders := []filesystem.Holder{
		{Kind: "process", How: "cwd", Path: "/dat", PID: 7, Command: "bash", Unit: "session-3.scope"},
		{Kind: "process", How: "open", Path: "/dat/base/1", PID: 812, Command: "postgres", Unit: "postgresql.service"},
		{Kind: "loop", How: "file", Path: "/dev/loop3"}, {Kind: "export", How: "export", Path: "/dat"},
		{Kind: "swap", How: "file", Path: "/dat/swap"}, {Kind: "device", How: "open", Path: "/dev/vg00/dat"},
	}
	sib := sibling{Name: "vg00/dat_other", DMName: "vg00-dat_other", Chunk: 64 << 10, Free: 1 << 20}
	needy := *m
	needy.Used = 8 << 20
	var texts []string
	for _, err := range []error{
		rb.plan.notFound(sel),
		memberFault(volume("vg00/dat_s", func(v *lvm.Volume) { v.State = lvm.Invalid })),
		memberFault(volume("vg00/dat_s", func(v *lvm.Volume) { v.Merging = true })),
		memberFault(volume("vg00/dat_s", func(v *lvm.Volume) { v.Origin = "gone" })),
		needy.checkSibling(sib, sib.Free),
		busyFault(holders, []string{"run-r12.service"}),
		withOutliving(busyFault(holders[1:2], nil), holders[1:2], []int{812}),
		rb.volumes.newHoldersFault(nil, fault.New(fault.Busy, "open")),
		removedFault(m),
		overflowedFault(m, volume("vg00/dat_s", func(v *lvm.Volume) { v.Merging = true }),
			volume("vg00/dat", func(*lvm.Volume) {})),
		rb.state.givenUpFault(map[*Member]string{m: stateLost}, removedFault(m)),
		mergeRefused(rb.state.Members, cause, nil),
		mergeRefused(rb.state.Members, nil, cause),
		(&deferral{members: rb.state.Members}).notBegunFault(30*time.Second, "the services stay down"),
		(&deferral{members: rb.state.Members, retryErr: cause}).notBegunFault(30*time.Second, "the services stay down"),
		unknownStateFault(cause),
		notMountedFault(mountsHost{}, rb.state),
		rb.steps.journalFault(fmt.Errorf("write /var/lib/rewind/journal/1.json: %w", unix.ENOSPC)),
		spaceNeed{dirs: []string{"/var/lib/rewind", "/etc/lvm"}, bytes: 5 << 20}.tooSmall("1.0 MiB is free"),
	} {
		text, marshalErr := json.MarshalIndent(fault.Of(err), "", " ")
		if marshalErr != nil {
			t.Fatal(marshalErr)
		}
		texts = append(texts, string(text))
	}
	ansibletest.Golden(t, "testdata/results/faults.json", []byte(strings.Join(texts, "\n")+"\n"))
}
