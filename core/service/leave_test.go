package service

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/servicetest"
)

// A stop of cron leaves its jobs, and they hold the volume as before.
func TestOutlivingNamesProcessesThatAStopLeaves(t *testing.T) {
	f := servicetest.New()
	stopCommand := []any{[]any{"/etc/init.d/old", []string{"/etc/init.d/old", "stop"}, false}}
	for unit, properties := range map[string]map[string]any{
		"cron.service":  {"KillMode": "process", "MainPID": uint32(10), "ControlPID": uint32(11), "ExecStop": []any{}},
		"none.service":  {"KillMode": "none", "MainPID": uint32(20)},
		"old.service":   {"KillMode": "process", "ExecStop": stopCommand},
		"usual.service": {"KillMode": "control-group", "MainPID": uint32(40)},
		"other.service": {"KillMode": "process", "MainPID": uint32(50)},
	} {
		f.Add(unit, "active").Properties = properties
	}
	s := systemdOn(t, f)
	var pids []int
	for pid, unit := range map[int]string{
		10: "cron", 11: "cron", 12: "cron", 13: "cron", 20: "none", 30: "old", 40: "usual", 41: "usual", 51: "other",
	} {
		writeFile(t, filepath.Join(string(s.proc), strconv.Itoa(pid), "cgroup"), "0::/system.slice/"+unit+".service\n")
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	units := []string{"cron.service", "none.service", "old.service", "usual.service"}
	got, err := s.Outliving(t.Context(), units, pids)
	if want := []int{12, 13, 20}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
}

// What a unit leaves behind must not keep Stop waiting to its limit, with everything down.
func TestStopDoesNotWaitForWhatAUnitLeaves(t *testing.T) {
	f := servicetest.New()
	s := systemdOn(t, f)
	u := f.Add("a.service", "active")
	events := fakeControlGroup(t, s, u, "1", "812\n")
	u.Properties["KillMode"] = "process"
	defer func(grace time.Duration) { leaveGrace = grace }(leaveGrace)
	leaveGrace = 30 * time.Millisecond
	if err := s.Stop(t.Context(), Plan{Stop: []string{"a.service"}}, time.Minute); err != nil {
		t.Errorf("a process that holds nothing perhaps: %v", err)
	}
	leaveGrace = time.Minute
	f.Change("a.service", func(u *servicetest.Unit) { u.Active = "active" })
	end := func(context.Context) error {
		if f.State("a.service") != "inactive" {
			t.Error("the processes are ended before the unit is down")
		}
		writeFile(t, events, "populated 0\nfrozen 0\n")
		return nil
	}
	if err := s.StopAndEnd(t.Context(), Plan{Stop: []string{"a.service"}}, 10*time.Second, end); err != nil {
		t.Error(err)
	}
	failed := fault.New(fault.Busy, "cannot be ended")
	end = func(context.Context) error { return failed }
	if err := s.StopAndEnd(t.Context(), Plan{}, time.Second, end); !errors.Is(err, fault.Busy) {
		t.Errorf("got %v", err)
	}
}
