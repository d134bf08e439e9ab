package bus

import (
	"testing"

	"go.pcc.com/rewind/core/service/dbus"
)

func TestUnitPath(t *testing.T) {
	for name, want := range map[string]string{
		"a.service":                  "a_2eservice",
		"postgresql@15-main.service": "postgresql_4015_2dmain_2eservice",
		"9p.mount":                   "_39p_2emount",
		`srv-my\x2dapp.mount`:        "srv_2dmy_5cx2dapp_2emount",
		"é.service":                  "_c3_a9_2eservice",
	} {
		if got := unitPath(name); got != "/org/freedesktop/systemd1/unit/"+want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestSignalsReachTheirWatchersOnly(t *testing.T) {
	result := make(chan string, 1)
	mine, other := make(chan struct{}, 1), make(chan struct{}, 1)
	b := &socketBus{
		jobs:     map[string]chan<- string{"/job/7": result},
		watchers: map[chan<- struct{}]string{mine: unitPath("a.service"), other: unitPath("b.service")},
	}
	jobRemoved := func(values ...any) dbus.Signal {
		return dbus.Signal{Path: managerPath, Member: "JobRemoved", Body: func() ([]any, error) { return values, nil }}
	}
	removed := func(path string) dbus.Signal { return jobRemoved(uint32(7), path, "a.service", "done") }
	b.handleSignal(removed("/job/8"))
	b.handleSignal(jobRemoved())
	if len(result) != 0 {
		t.Fatal("got the result of another job")
	}
	b.handleSignal(removed("/job/7"))
	b.handleSignal(removed("/job/7")) // must not block
	if got := <-result; got != "done" {
		t.Error(got)
	}
	for range 3 { // nobody receives from the channel: must not block
		b.handleSignal(dbus.Signal{Path: unitPath("a.service"), Member: "PropertiesChanged"})
	}
	if len(mine) != 1 || len(other) != 0 {
		t.Errorf("signals for the watched unit: %d, for another: %d", len(mine), len(other))
	}
}
