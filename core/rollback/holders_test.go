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

// sleeper starts a process and returns its number and a channel that tells of its end.
func sleeper(t *testing.T) (int, <-chan struct{}) {
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

// A number that was given to another process while the services stopped must not bring that one its end.
func TestOnlyTheProcessThatWasSeenIsEnded(t *testing.T) {
	pid, gone := sleeper(t)
	kill, _ := killable([]filesystem.Holder{{Kind: "process", PID: pid, Command: "sleep"}})
	if len(kill) != 1 || kill[0].began == 0 {
		t.Fatalf("%+v", kill)
	}
	other := kill[0]
	other.began--
	if err := end(t.Context(), []condemned{other}); err != nil {
		t.Error(err)
	}
	select {
	case <-gone:
		t.Fatal("a process that started at another time was ended")
	case <-time.After(50 * time.Millisecond):
	}
	if err := end(t.Context(), kill); err != nil {
		t.Error(err)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the process itself was not ended")
	}
}

// A result names what is ended as it names other holders.
func TestCondemnedIsReportedAsAHolder(t *testing.T) {
	data, err := json.Marshal(condemned{filesystem.Holder{Kind: "process", PID: 7, Command: "tail"}, 4711})
	if err != nil || !strings.Contains(string(data), `"pid":7`) || strings.Contains(string(data), "4711") {
		t.Errorf("%s %v", data, err)
	}
}

// A volume that is found open when the services are down has a hint, whether or not anybody can be named.
func TestWhoeverCameSinceIsNamedOrToBeLookedFor(t *testing.T) {
	busyBare := fault.New(fault.Busy, "unmount /dat: device or resource busy")
	loop := []filesystem.Holder{{Kind: "process", How: "cwd", PID: 7, Command: "sleep", Path: "/dat"}}
	for _, c := range []struct {
		stop    bool
		holders []filesystem.Holder
		because error
		hint    string
	}{
		{false, nil, busyBare, "again and again"},
		{true, loop, busyBare, "holders=stop had ended what was there"},
		{false, loop, busyBare, "add the units to services"},
		{false, nil, fault.New(fault.Busy, "open").WithHint("lsof"), "lsof"},
	} {
		w := &walk{Request: Request{StopHolders: c.stop}}
		f := fault.Of(fault.All(w.comeSince(c.holders, c.because), c.because))
		listed := strings.Contains(f.Msg, "looked at were "+filesystem.LookedAt)
		if f.Code != fault.Busy || !strings.Contains(f.Hint, c.hint) || listed != (len(c.holders) == 0) {
			t.Errorf("%v %v: %v, %s", c.stop, c.holders, f, f.Hint)
		}
	}
}

// A run that could not write out what is in memory waits for the disk itself; another one may have its backups here.
func TestAnotherRunIsWaitedFor(t *testing.T) {
	run := filesystem.Holder{Kind: "process", How: "fd", Path: "/dat", PID: 1<<22 - 1, Command: "rewind-12", Unit: "rewind-20261130t035720-057863-63a12b.service"}
	if kill, rest := killable([]filesystem.Holder{run}); len(kill) != 0 || len(rest) != 1 {
		t.Errorf("it would be ended: %v", kill)
	}
	if got := advice([]filesystem.Holder{run}, nil); !strings.HasPrefix(got, "wait for the end of "+run.Unit) || strings.Contains(got, "end the processes") {
		t.Error(got)
	}
}

// What no process of its own holds is stopped by its unit, or the advice is what makes the kernel let go of it.
func TestWhatTheKernelHoldsIsLetGoByItsUnitOrByHand(t *testing.T) {
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
