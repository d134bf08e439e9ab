package snapset

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/ansible/ansibletest"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// What Ansible gets for each kind of request must stay as it is, byte for byte: playbooks read it. Each file of
// testdata/results is one answer, with line breaks and indents for whoever reads it.
func TestResultsStayAsTheyAre(t *testing.T) {
	t.Setenv("TMPDIR", "/dev/shm") // in memory the journal's many writes to the disk take no time
	noFstab(t)
	writeOut = func(context.Context, []string, time.Duration) []string { return nil }
	t.Cleanup(func() { writeOut = filesystem.WriteOut })
	cases := goldenCases()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := newGoldenServer(t).answer(c, false)
			if c.request.Check && newGoldenServer(t).answer(c, true) != got {
				t.Error("with --diff the answer is another one, though Ansible shows the diff only if it was asked to")
			}
			ansibletest.Golden(t, filepath.Join("testdata/results", name+".json"), []byte(got))
		})
	}
	files, err := os.ReadDir("testdata/results")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, used := cases[strings.TrimSuffix(file.Name(), ".json")]; !used {
			t.Errorf("testdata/results/%s is the answer of no case", file.Name())
		}
	}
}

// goldenCase is a request whose answer is kept.
type goldenCase struct {
	earlier []Request               // made before it; the test fails if one of these fails
	before  func(srv *goldenServer) // what else happens before it; nil: nothing
	request Request
	// own says that a run takes the set for its own use: the answer is that to Planned.Take, or with Check
	// Planned.Result.
	own bool
}

// goldenServer is a server whose programs mount and look into file systems, too.
type goldenServer struct {
	*testServer
	stateDir, lockDir string
	pointDir          string                  // for mount points
	fstypes           map[string]string       // what blkid finds on a device, by the device's path
	onCommand         map[string]func() error // called before a command with these words, and may have it fail
	sysfsDir          string                  // as View.Sysfs
	changeView        func(view *View)        // changes what the operations see; nil: nothing
}

func newGoldenServer(t *testing.T) *goldenServer {
	srv := &goldenServer{
		testServer: newServer(t), stateDir: t.TempDir(), lockDir: t.TempDir(), pointDir: t.TempDir(),
		fstypes: map[string]string{}, onCommand: map[string]func() error{},
	}
	srv.sysfsDir = srv.sysfs()
	return srv
}

// Run answers mount and blkid itself, and leaves all else to the fake LVM.
func (srv *goldenServer) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	for word, happens := range srv.onCommand {
		if strings.Contains(" "+strings.Join(c.Argv, " ")+" ", " "+word+" ") {
			if err := happens(); err != nil {
				const code = 32 // of mount(8): the mount failed
				return command.Output{}, &command.Error{Argv: c.Argv, Code: code, Stderr: err.Error(), Err: err}
			}
		}
	}
	switch c.Argv[0] {
	case "mount":
		return command.Output{}, nil
	case "blkid":
		return command.Output{Stdout: srv.fstypes[c.Argv[len(c.Argv)-1]]}, nil
	}
	return srv.Fake.Run(ctx, c)
}

// server returns the server as the operations see it.
func (srv *goldenServer) server() Server {
	return Server{
		Runner: srv,
		LVM: func(r command.Runner) *lvm.LVM {
			return lvm.New(r).On(srv.Mapper).Locking(srv.LockGroups).In(srv.lvm.Dir())
		},
		Mounts: func() ([]filesystem.Mount, error) { return srv.mounts, nil },
		View: func(r *lvm.Report, mounts []filesystem.Mount) *View {
			view := &View{Report: r, Mounts: mounts, Sysfs: srv.sysfsDir, Journal: "/", Device: filesystem.BlockDevice}
			if srv.changeView != nil {
				srv.changeView(view)
			}
			return view
		},
		StateDir: srv.stateDir,
	}
}

// make makes a request, in a run of its own unless it has Check.
func (srv *goldenServer) make(ctx context.Context, request Request, own bool) (Result, error) {
	server := srv.server()
	var run *journey.Run
	if !request.Check {
		j, err := journal.Open(filepath.Join(srv.stateDir, "journal"))
		if err != nil {
			srv.t.Fatal(err)
		}
		run = journey.Handlers{Kind: server.Handler()}.RunIn(j, srv.lockDir, journal.NewID())
		defer run.Unlock()
	}
	if !own {
		return server.Apply(ctx, run, request)
	}
	planned, err := server.PlanOwnedSet(ctx, run, request)
	if err != nil {
		return Result{}, err
	}
	if request.Check {
		return planned.Result, nil
	}
	set, result, err := planned.Take(ctx)
	if err == nil {
		err = set.Keep("kept")
	}
	return result, err
}

// answer plays a case and returns what Ansible gets, with fixed words for what is different each time.
func (srv *goldenServer) answer(c goldenCase, diff bool) string {
	srv.t.Helper()
	for _, request := range c.earlier {
		if _, err := srv.make(srv.t.Context(), srv.complete(request), request.Use != ForUser); err != nil {
			srv.t.Fatal(err)
		}
	}
	if c.before != nil {
		c.before(srv)
	}
	program := ansible.Module[struct{}]{
		Name: "lvm_snapshot", Defaults: func() struct{} { return struct{}{} },
		Run: func(ctx context.Context, call ansible.Call, _ struct{}) (ansible.Result, error) {
			request := srv.complete(c.request)
			request.Check = call.Check
			result, err := srv.make(ctx, request, c.own)
			return result.ForAnsible(), err
		},
	}.Program()
	settings, err := json.Marshal(map[string]any{
		"_ansible_check_mode": c.request.Check, "_ansible_diff": diff, "_ansible_no_log": true,
	})
	if err != nil {
		srv.t.Fatal(err)
	}
	var out, indented bytes.Buffer
	argv := []string{"lvm_snapshot", "-"}
	code := program.Exec(srv.t.Context(), argv, bytes.NewReader(settings), &out, &out)
	if err := json.Indent(&indented, out.Bytes(), "", "  "); err != nil {
		srv.t.Fatalf("exit code %d, %v: %s", code, err, out.String())
	}
	return srv.withoutVariance(indented.String())
}

// complete gives a request the name of the set and a limit, unless it has its own, and puts its mount points into the
// directory for them.
func (srv *goldenServer) complete(r Request) Request {
	if r.Set == "" {
		r.Set = "s"
	}
	if r.State == "" {
		r.State = Present
	}
	if r.FreezeTimeout == 0 {
		r.FreezeTimeout = time.Minute
	}
	if strings.HasPrefix(r.Mount.Point, "POINTS") {
		r.Mount.Point = strings.Replace(r.Mount.Point, "POINTS", srv.pointDir, 1)
	}
	return r
}

// variable are the patterns of what is different each time, with what takes its place.
var variable = []struct{ pattern, fixed string }{
	{`\d{8}t\d{6}-\d{6}-[0-9a-f]{6}`, "ID"},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)`, "TIME"},
	{`rewind:time=\d+`, "rewind:time=SECONDS"},
	{`"(pause_)?ms": [0-9.]+`, `"${1}ms": 0`},
	{`waited \d+ ms at most`, "waited 0 ms at most"},
	{`waited [^ ]+, longer`, "waited 0s, longer"},
	{`(\.json)\d+`, "$1"}, // the name of a temporary file
	{`"rewind_version": "[^"]*"`, `"rewind_version": "VERSION"`},
	{`(?s)("fullreport",).*?(\n +\])`, `$1 "OPTIONS"$2`}, // package lvm chooses these and the next
	{`("--config",\s+)"[^\n]*"`, `$1"CONFIG"`},
}

// withoutVariance replaces what is different each time by fixed words: IDs, times, durations, and directories.
func (srv *goldenServer) withoutVariance(text string) string {
	dirs := map[string]string{srv.stateDir: "STATE", srv.pointDir: "POINTS", srv.lvm.Dir(): "LVM"}
	for dir, word := range dirs {
		text = strings.ReplaceAll(text, dir, word)
	}
	for _, v := range variable {
		text = regexp.MustCompile(v.pattern).ReplaceAllString(text, v.fixed)
	}
	return text
}
