package rollback

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// startSleep starts a process and returns its PID and a channel that is closed when it ends.
func startSleep(t *testing.T) (int, <-chan struct{}) {
	t.Helper()
	c := exec.Command("sleep", "600")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { _ = c.Wait(); close(gone) }()
	t.Cleanup(func() { _ = c.Process.Kill(); <-gone })
	return c.Process.Pid, gone
}

// A process that got the PID of another one while the services stopped must not be ended in its place.
func TestEndProcessesSparesReusedPID(t *testing.T) {
	pid, gone := startSleep(t)
	kill, _ := splitKillable([]filesystem.Holder{{Kind: "process", PID: pid, Command: "sleep"}})
	if len(kill) != 1 || kill[0].startTicks == 0 {
		t.Fatalf("%+v", kill)
	}
	other := kill[0]
	other.startTicks--
	if err := endProcesses(t.Context(), []processToEnd{other}); err != nil {
		t.Error(err)
	}
	select {
	case <-gone:
		t.Fatal("a process that started at another time was ended")
	case <-time.After(50 * time.Millisecond):
	}
	if err := endProcesses(t.Context(), kill); err != nil {
		t.Error(err)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the process itself was not ended")
	}
}

// The result shows a process that is ended like any other holder.
func TestProcessToEndIsReportedAsHolder(t *testing.T) {
	data, err := json.Marshal(processToEnd{filesystem.Holder{Kind: "process", PID: 7, Command: "tail"}, 4711})
	if err != nil || !strings.Contains(string(data), `"pid":7`) || strings.Contains(string(data), "4711") {
		t.Errorf("%s %v", data, err)
	}
}

// If a volume is open after the services have stopped, the fault has a hint, whether holders are found or not.
func TestStillBusyNamesNewHolders(t *testing.T) {
	noHint := fault.New(fault.Busy, "unmount /dat: device or resource busy")
	holders := []filesystem.Holder{{Kind: "process", How: "cwd", PID: 7, Command: "sleep", Path: "/dat"}}
	for _, c := range []struct {
		stop    bool
		holders []filesystem.Holder
		because error
		hint    string
	}{
		{false, nil, noHint, "again and again"},
		{true, holders, noHint, "holders=stop had ended what was there"},
		{false, holders, noHint, "add the units to services"},
		{false, nil, fault.New(fault.Busy, "open").WithHint("lsof"), "lsof"},
	} {
		rb := newParts(&base{Request: Request{StopHolders: c.stop}})
		f := fault.Of(fault.All(rb.volumes.newHoldersFault(c.holders, c.because), c.because))
		listed := strings.Contains(f.Msg, "looked at were "+filesystem.LookedAt)
		if f.Code != fault.Busy || !strings.Contains(f.Hint, c.hint) || listed != (len(c.holders) == 0) {
			t.Errorf("%v %v: %v, %s", c.stop, c.holders, f, f.Hint)
		}
	}
}

// Another run is never ended: it may be waiting for the disk, or have its backups on the volume.
func TestAdviceIsToWaitForOtherRun(t *testing.T) {
	run := filesystem.Holder{Kind: "process", How: "fd", Path: "/dat", PID: 1<<22 - 1, Command: "rewind-12"}
	run.Unit = "rewind-20261130t035720-057863-63a12b.service"
	if kill, rest := splitKillable([]filesystem.Holder{run}); len(kill) != 0 || len(rest) != 1 {
		t.Errorf("it would be ended: %v", kill)
	}
	got := advice([]filesystem.Holder{run}, nil)
	if !strings.HasPrefix(got, "wait for the end of "+run.Unit) || strings.Contains(got, "end the processes") {
		t.Error(got)
	}
}

// A holder that is no process is stopped with its unit; without a unit the advice says how to make the kernel release
// the volume.
func TestAdviceForHoldersInKernel(t *testing.T) {
	holders := []filesystem.Holder{
		{Kind: "process", How: "fd", Path: "/dat/x", PID: 9, Command: "dd", Unit: "dd.service"},
		{Kind: "process", How: "socket", Path: "/dat/s", PID: 1, Command: "systemd", Unit: "app.socket"},
		{Kind: "export", How: "nfs", Path: "/dat", Unit: "nfs-server.service"},
		{Kind: "swap", How: "swap", Path: "/dat/swap"},
	}
	if got := strings.Join(unitsBehind(holders), " "); got != "app.socket nfs-server.service" {
		t.Error(got)
	}
	got := advice(holders, nil)
	for _, want := range []string{"name nfs-server in services", "swapoff /dat/swap", "services=auto finds the units"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
	if got, want := advice(holders[3:], nil), "swapoff /dat/swap"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A job of cron outlives the stop of its unit, which services=auto would have stopped for it in vain.
func TestAdviceForWhatOutlivesItsUnit(t *testing.T) {
	job := filesystem.Holder{Kind: "process", How: "cwd", Path: "/dat", PID: 7, Command: "backup", Unit: "cron.service"}
	file := job
	file.How, file.Path = "fd", "/dat/x"
	tail := filesystem.Holder{Kind: "process", How: "fd", Path: "/dat/y", PID: 9, Command: "tail"}
	hint := func(holders ...filesystem.Holder) string {
		return fault.Of(withOutliving(busyFault(holders, nil), holders, []int{7})).Hint
	}
	got := hint(job, file)
	if want := "a stop of its unit leaves backup (pid 7) of cron.service running"; !strings.HasPrefix(got, want) ||
		strings.Contains(got, "auto") {
		t.Error(got)
	}
	if got := hint(job, tail); !strings.Contains(got, "holders=stop ends it") || !strings.Contains(got, "services=auto") {
		t.Error(got)
	}
	if got := hint(tail); strings.Contains(got, "KillMode") {
		t.Error(got)
	}
	if err := withOutliving(busyFault(nil, nil), nil, []int{7}); err != nil {
		t.Error(err)
	}
}
