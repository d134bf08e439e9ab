//go:build lab

package lvmtest_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// TestRealLVM runs the scenarios against the LVM of this machine, as root. It removes every volume of the volume group
// that REWIND_LAB_VG names. Therefore the variable must be set, and the group must be empty when the test begins.
func TestRealLVM(t *testing.T) {
	vg := os.Getenv("REWIND_LAB_VG")
	if vg == "" {
		t.Fatal("REWIND_LAB_VG names no volume group that may be emptied")
	}
	host := &machine{vg: vg}
	before, err := lvm.New(command.Local{}).Report(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if g, ok := before.Group(vg); !ok || len(g.Volumes) > 0 {
		t.Fatalf("%s: there %v, with %d volumes; it must be empty", vg, ok, len(g.Volumes))
	}
	mapper, err := lvm.OpenMapper()
	if err != nil {
		t.Fatal(err)
	}
	defer mapper.Close()
	for _, s := range lvmtest.Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			host.t, host.nextWrite, host.open = t, map[string]int64{}, map[string]*os.File{}
			t.Cleanup(host.removeAll)
			s.Run(t, lvmtest.Bench{Host: host, VG: vg, LVM: lvm.New(host), Mapper: mapper})
		})
	}
}

// machine is a Host of real volumes.
type machine struct {
	command.Local
	t         *testing.T
	vg        string
	nextWrite map[string]int64 // the offset of the next write, by volume
	open      map[string]*os.File
}

// mustRun runs a program that must succeed.
func (m *machine) mustRun(argv ...string) {
	m.t.Helper()
	if out, err := m.Run(context.Background(), command.Cmd{Argv: argv, Changes: true}); err != nil {
		m.t.Fatalf("%q: %v\n%s", argv, err, out.Stderr)
	}
}

func (m *machine) Make(vg string, v lvmtest.Volume) {
	m.t.Helper()
	size := fmt.Sprintf("%db", v.Size)
	create := []string{"lvm", "lvcreate", "--yes", "--name", v.Name}
	switch {
	case v.Kind == lvm.ThinPool:
		create = append(create, "--type", "thin-pool", "--size", size, vg)
	case v.Pool != "":
		create = append(create, "--type", "thin", "--virtualsize", size, "--thinpool", v.Pool, vg)
	default:
		create = append(create, "--wipesignatures", "n", "--type", "linear", "--size", size, vg)
	}
	m.mustRun(create...)
	m.mustRun("udevadm", "settle")
}

func device(name string) string { return filepath.Join("/dev", name) }

// Write changes n bytes of a volume, behind those that it has changed before.
func (m *machine) Write(name string, n int64) {
	m.t.Helper()
	f, err := os.OpenFile(device(name), os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, n)
	_, _ = rand.Read(data)
	if _, err := f.WriteAt(data, m.nextWrite[name]); err != nil {
		m.t.Fatal(err)
	}
	m.nextWrite[name] += n
	if err := f.Sync(); err != nil {
		m.t.Fatal(err)
	}
	f.Close()
	m.mustRun("udevadm", "settle")
}

func (m *machine) SetOpen(name string, times int) {
	m.t.Helper()
	if f := m.open[name]; f != nil {
		f.Close()
		delete(m.open, name)
	}
	if times == 0 {
		return
	}
	f, err := os.Open(device(name))
	if err != nil {
		m.t.Fatal(err)
	}
	m.open[name] = f
}

// SetFrozen makes, mounts and freezes a file system, or thaws and unmounts it.
func (m *machine) SetFrozen(name string, frozen bool) {
	m.t.Helper()
	mountPoint := filepath.Join(os.TempDir(), "frozen-"+strings.ReplaceAll(name, "/", "-"))
	if !frozen {
		m.mustRun("fsfreeze", "--unfreeze", mountPoint)
		if err := unix.Unmount(mountPoint, 0); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	if err := os.MkdirAll(mountPoint, 0o700); err != nil {
		m.t.Fatal(err)
	}
	m.mustRun("mkfs.ext4", "-q", "-F", device(name))
	m.mustRun("mount", device(name), mountPoint)
	m.mustRun("fsfreeze", "--freeze", mountPoint)
}

func (m *machine) Tick() { time.Sleep(200 * time.Millisecond) }

// removeAll removes all volumes that a scenario has left, even a damaged pool.
func (m *machine) removeAll() {
	for name := range m.open {
		m.SetOpen(name, 0)
	}
	m.mustRun("udevadm", "settle")
	m.mustRun("lvm", "lvremove", "--yes", "--force", "--force", "--", m.vg)
}

// TestKernelSaysWhatDmsetupSays compares the answers of the kernel and of dmsetup about all devices of this machine.
func TestKernelSaysWhatDmsetupSays(t *testing.T) {
	ctx := context.Background()
	programs := lvm.New(command.Local{})
	direct := programs.Direct(lvm.DeviceMapper)
	info, err1 := programs.Info(ctx)
	status, err2 := programs.Status(ctx)
	if err1 != nil || err2 != nil || len(info) == 0 {
		t.Fatalf("%v, %v, %d devices", err1, err2, len(info))
	}
	gotInfo, err1 := direct.Info(ctx)
	gotStatus, err2 := direct.Status(ctx)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if diff := cmp.Diff(info, gotInfo); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(status, gotStatus, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	one, err := lvm.DeviceMapper("no-such-device")
	if len(one) != 0 || err != nil {
		t.Error(one, err)
	}
}
