package rsync

import "testing"

// A copy of a virtual machine has the name and the machine-id of the original, and another boot. It must not take the
// original's lock for one of its own earlier boots.
func TestCopyOfMachineIsNotAnEarlierBoot(t *testing.T) {
	own := holder{Host: "db1", Machine: "1", Hardware: "a", Boot: "now", PID: 1, Started: "x"}
	for name, tt := range map[string]struct {
		change func(*holder)
		alive  bool
	}{
		"an earlier boot":                    {func(h *holder) { h.Boot = "before" }, false},
		"a copy":                             {func(h *holder) { h.Boot, h.Hardware = "before", "b" }, true},
		"a copy that runs on":                {func(h *holder) { h.Hardware = "b" }, true},
		"a boot of hardware that is unknown": {func(h *holder) { h.Boot, h.Hardware = "before", "" }, true},
		"a process of this boot that ended":  {func(*holder) {}, false},
		"one that an earlier version noted":  {func(h *holder) { h.Hardware = "" }, false},
	} {
		h := own
		tt.change(&h)
		if got := h.mayBeAliveFor(own); got != tt.alive {
			t.Errorf("%s: %v", name, got)
		}
	}
}
