package rollback

import (
	"os"
	"strings"
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

// The kernel gives the numbers of mounts that are gone to new ones: what is mounted below another may have a lower one.
func TestMountsComeInTheOrderOfTheTable(t *testing.T) {
	table := []filesystem.Mount{{ID: 40, Point: "/"}, {ID: 91, Point: "/dat"}, {ID: 17, Point: "/dat/wal"}, {ID: 50, Point: "/srv"}}
	some := []filesystem.Mount{table[2], table[3], table[1]}
	inOrder(some, table)
	if some[0].Point != "/dat" || some[1].Point != "/dat/wal" || some[2].Point != "/srv" {
		t.Error(some)
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

// What is advised must help: holders=stop ends no login session, services=auto no transient unit.
func TestAdvice(t *testing.T) {
	shell := filesystem.Holder{Kind: "process", How: "cwd", Path: "/dat", PID: 7, Command: "bash", Unit: "session-3.scope"}
	sudo := filesystem.Holder{Kind: "process", How: "cwd", Path: "/dat", PID: 8, Command: "sudo", Unit: "session-3.scope"}
	job := filesystem.Holder{Kind: "process", How: "fd", Path: "/dat/x", PID: 9, Command: "dd", Unit: "run-u1.service"}
	if got, want := advice([]filesystem.Holder{shell, sudo}, nil),
		"have bash (pid 7), sudo (pid 8) leave /dat (cd /): services=auto does not end a login session"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	got := advice([]filesystem.Holder{shell, job}, []string{"run-u1.service"})
	for _, want := range []string{"bash (pid 7)", "stop run-u1.service yourself", "holders=stop"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
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
