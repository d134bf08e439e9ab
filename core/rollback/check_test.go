package rollback

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/filesystem"
)

func TestAgain(t *testing.T) {
	dev := filesystem.Dev{Major: 253, Minor: 1}
	whole := filesystem.Mount{ID: 1, Dev: dev, Root: "/", Point: "/dat", Type: "xfs", Source: "/dev/mapper/vg00-dat", Options: "rw,noatime", Super: "rw,attr2"}
	part := filesystem.Mount{ID: 2, Dev: dev, Root: "/logs", Point: "/var/log/app", Type: "xfs", Source: "/dev/mapper/vg00-dat", Options: "rw"}
	all := []filesystem.Mount{whole, part}
	want := filesystem.MountSpec{Source: "/dev/mapper/vg00-dat", Point: "/dat", Type: "xfs", Options: []string{"rw", "noatime"}}
	if diff := cmp.Diff(want, again(whole, all, nil)); diff != "" {
		t.Error(diff)
	}
	want = filesystem.MountSpec{Bind: "/dat/logs", Point: "/var/log/app"}
	if diff := cmp.Diff(want, again(part, all, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestNested(t *testing.T) {
	at := func(points ...string) (specs []filesystem.MountSpec) {
		for _, p := range points {
			specs = append(specs, filesystem.MountSpec{Point: p})
		}
		return specs
	}
	if nested(at("/dat", "/data", "/srv/x")) {
		t.Error("/data is not below /dat")
	}
	if !nested(at("/srv/x", "/srv")) || !nested(at("/", "/dat")) {
		t.Error("nested mounts are not seen")
	}
}

func TestInChunks(t *testing.T) {
	if got := inChunks(8192, 4096); got != 8192 {
		t.Error(got)
	}
	if got := inChunks(8192, 65536); got != 2*65536 { // each 4 KiB may touch a chunk of its own
		t.Error(got)
	}
}

// Whatever the user says: not ourselves, not what we are started by, not init, not sshd.
func TestKillable(t *testing.T) {
	process := func(pid int, command string) filesystem.Holder {
		return filesystem.Holder{Kind: "process", PID: pid, Command: command}
	}
	kill, rest := killable([]filesystem.Holder{
		process(os.Getpid(), "rewind"), process(os.Getppid(), "bash"), process(1, "init"), process(1<<22-1, "sshd: root"),
		process(1<<22-1, "tail"), {Kind: "swap", Path: "/dat/swap"},
	})
	if len(kill) != 1 || kill[0].Command != "tail" || len(rest) != 5 {
		t.Errorf("kill %v, rest %v", kill, rest)
	}
}
