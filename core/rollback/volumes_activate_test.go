package rollback

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// deactivate takes a volume's device away, as an administrator does.
func deactivate(t *testing.T, f *lvmtest.Fake, volume string) {
	t.Helper()
	argv := []string{"lvm", "lvchange", "--activate", "n", "--", volume}
	if _, err := f.Run(t.Context(), command.Cmd{Argv: argv, Changes: true}); err != nil {
		t.Fatal(err)
	}
}

// refreshes counts the tries to begin deferred merges.
func refreshes(f *lvmtest.Fake) (n int) {
	for _, argv := range f.Commands() {
		if len(argv) > 2 && argv[2] == "--refresh" {
			n++
		}
	}
	return n
}

func TestInactiveMembersAreActivated(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, allSnapshots...)
	deactivate(t, f, "vg00/dat")
	deactivate(t, f, "vg00/thin")
	if err := rb.volumes.activateInactive(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, v := range f.Volumes() {
		if !v.Active {
			t.Errorf("%s is inactive", v.FullName())
		}
	}
	n := len(f.Commands())
	if err := rb.volumes.activateInactive(t.Context()); err != nil || len(f.Commands()) != n+1 {
		t.Errorf("with nothing inactive: %v, %q", err, f.Commands()[n:])
	}
}

// A volume that somebody deactivates after the last check is merged all the same, and without a storm of commands.
func TestMemberThatIsDeactivatedBeforeItsMergeIsMerged(t *testing.T) {
	f := server()
	rb := withMetadata(t, f)
	deactivate(t, f, "vg00/app")
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkMerging(t, rb)
	if n := refreshes(f); n > 0 {
		t.Errorf("%d refreshes, which do nothing for an inactive volume", n)
	}
}

// Where LVM begins no merge although nothing is open, the fault says what LVM says, not that something is open.
func TestMergeThatLVMDoesNotBeginNamesTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := server()
		rb := newAtMerge(t, f, "vg00/app_s")
		beginAt(t, rb, stepMerging)
		deactivate(t, f, "vg00/app")
		for range 2 * mergeStartLimit / statusInterval {
			f.FailOn(errors.New("no such luck"), "lvchange")
		}
		err := rb.merges.begin(t.Context())
		const want = "LVM did not begin the merge of vg00/app within 5m0s; the services stay down"
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "no such luck") {
			t.Errorf("%v", err)
		}
	})
}

// A refresh can succeed and begin nothing, as while the snapshot is open. It is not repeated without a pause.
func TestRefreshThatBeginsNothingIsRepeatedAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := server()
		rb := newAtMerge(t, f, "vg00/app_s")
		beginAt(t, rb, stepMerging)
		rb.merges.openLimit = time.Minute
		f.SetOpen("vg00/app_s", 1)
		err := rb.merges.begin(t.Context())
		if want := int(mergeStartLimit/statusInterval) + 1; !errors.Is(err, fault.Busy) || refreshes(f) > want {
			t.Errorf("%d refreshes, at most %d are wanted: %v", refreshes(f), want, err)
		}
	})
}
