package rollback

import (
	"testing"

	"go.pcc.com/rewind/core/filesystem"
)

// A volume that the kernel counts as open is in the way, even if no holder can be found.
func TestOpenWithoutHolder(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s", "vg00/app_s")
	look := func(known []filesystem.Holder, mounts []filesystem.Mount) []filesystem.Holder {
		t.Helper()
		rb.server.Host = mountsHost{rb.server.Host, mounts}
		found, err := rb.plan.openWithoutHolder(t.Context(), known)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := look(nil, nil); found != nil {
		t.Errorf("all are closed: %v", found)
	}
	f.SetOpen("vg00/dat", 1)
	found := look(nil, nil)
	if len(found) != 1 || found[0].Path != "/dev/vg00/dat" || found[0].How != "open" {
		t.Fatalf("%+v", found)
	}
	if other := look([]filesystem.Holder{{Kind: "process", Dev: found[0].Dev}}, nil); other != nil {
		t.Errorf("a process was found that has it open: %v", other)
	}
	if other := look(nil, []filesystem.Mount{{Dev: found[0].Dev, Root: "/", Point: "/dat"}}); other != nil {
		t.Errorf("it is mounted: %v", other)
	}
	file := filesystem.Dev{Major: 253, Minor: 77}
	rb.state.Members[0].LogOf = &file
	if log := look(nil, []filesystem.Mount{{Dev: file, Root: "/", Point: "/xl"}}); log != nil {
		t.Errorf("it is the log of what is mounted: %v", log)
	}
	if log := look(nil, nil); len(log) != 1 {
		t.Errorf("it is a log, and its file system is not mounted: %v", log)
	}
	if kernel := kernelAdvice(found); len(kernel) != 1 {
		t.Errorf("nothing is advised: %v", kernel)
	}
}
