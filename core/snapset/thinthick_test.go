package snapset

import (
	"testing"
	"time"
)

// LVM takes the thin member of a group while the thick one is ready for the instant, and needs the group's lock for it.
// What a freeze takes, which only a real kernel has, is left out.
func TestAGroupWhoseThinVolumeIsFrozenIsNotLocked(t *testing.T) {
	w := server(t)
	p := w.mustPlan(newKernel, Want{Set: "s", Volumes: words("/t1", "/dat", "/pccehr")})
	taker := &taker{lvm: w.lvm, plan: p, limit: time.Minute, pause: Pause{}}
	if err := taker.create(t.Context(), p.before()); err != nil {
		t.Fatal(err)
	}
	instant, err := taker.prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer instant.Close()
	if err := taker.create(t.Context(), p.frozenThin()); err != nil {
		t.Fatal(err)
	}
	if _, err := instant.Take(t.Context(), time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	if !w.OneInstant("vg00/dat_s", "vg00/pccehr_s") {
		t.Error("the thick volumes are not of one instant")
	}
}
