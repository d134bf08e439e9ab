package service

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

func TestSignalsReachWhomTheyConcern(t *testing.T) {
	result := make(chan string, 1)
	mine, other := make(chan struct{}, 1), make(chan struct{}, 1)
	w := &wire{
		jobs:     map[string]chan<- string{"/job/7": result},
		watchers: map[chan<- struct{}]string{mine: unitPath("a.service"), other: unitPath("b.service")},
	}
	said := func(values ...any) dbus.Signal {
		return dbus.Signal{Path: managerPath, Member: "JobRemoved", Body: func() ([]any, error) { return values, nil }}
	}
	removed := func(path string) dbus.Signal { return said(uint32(7), path, "a.service", "done") }
	w.hear(removed("/job/8"))
	w.hear(said())
	if len(result) != 0 {
		t.Fatal("another job's result")
	}
	w.hear(removed("/job/7"))
	w.hear(removed("/job/7")) // must not block
	if got := <-result; got != "done" {
		t.Error(got)
	}
	for range 3 { // nobody has looked since the first: must not block
		w.hear(dbus.Signal{Path: unitPath("a.service"), Member: "PropertiesChanged"})
	}
	if len(mine) != 1 || len(other) != 0 {
		t.Errorf("woken: %d, another: %d", len(mine), len(other))
	}
}
