package simulation

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/service/servicetest"
)

// Daemon is a service of a server. It works on volumes for as long as it runs.
type Daemon struct {
	Name    string
	Volumes []string // vg/lv; of a volume that is not mounted it opens the device
	Needs   string   // another service that it requires; empty: none
	Stopped bool     // nobody has started it, and no boot does
}

// pid is the number of a service's process.
func (l *Layout) pid(name string) int {
	return 1000 + slices.IndexFunc(l.Daemons, func(d Daemon) bool { return d.Name == name })
}

// newSystemd returns a systemd with the units of the server, as after a boot.
func (m *machine) newSystemd() *servicetest.Fake {
	f := servicetest.New()
	for _, name := range m.story.Server.Mounted {
		m.addMountUnit(f, name)
	}
	for _, d := range m.story.Server.Daemons {
		m.addDaemon(f, d)
	}
	return f
}

// addMountUnit adds the unit that systemd makes of an entry in fstab, and the unit of its device.
func (m *machine) addMountUnit(f *servicetest.Fake, name string) {
	point := mountPoint(name)
	unit, device := service.MountUnit(point), service.EscapePath("/dev/"+name)+".device"
	deps := []string{"Requires", device, "After", device, "Before", "local-fs.target"}
	u := f.Add(unit, "active", deps...)
	u.Enabled, u.FragmentPath = true, "/run/systemd/generator/"+unit
	u.OnStart = func() error { return m.kernel.mount(name, point, false) }
	u.OnStop = func() { m.kernel.unmount(point) }
	f.Add(device, "active", "RequiredBy", unit).OnStart = func() error {
		if v, found := m.volumeNamed(name); !found || !v.Active {
			return fmt.Errorf("there is no %s", name)
		}
		return nil
	}
}

// noteMount tells systemd what became of a mount point, which it reads in the kernel's mount table.
func (m *machine) noteMount(point string) {
	state := "inactive"
	if m.kernel.at(point) != "" {
		state = "active"
	}
	m.systemd.Change(service.MountUnit(point), func(u *servicetest.Unit) { u.Active = state })
}

// addDaemon adds the unit of a service.
func (m *machine) addDaemon(f *servicetest.Fake, d Daemon) {
	deps := []string{"After", "sysinit.target", "After", "basic.target", "After", "local-fs.target"}
	for _, name := range d.Volumes {
		if slices.Contains(m.story.Server.Mounted, name) {
			unit := service.MountUnit(mountPoint(name))
			deps = append(deps, "Requires", unit, "After", unit)
		}
	}
	if d.Needs != "" {
		deps = append(deps, "Requires", d.Needs, "After", d.Needs)
	}
	active := "active"
	if d.Stopped {
		active = "inactive"
	}
	u := f.Add(d.Name, active, deps...)
	u.Enabled, u.FragmentPath = !d.Stopped, "/etc/systemd/system/"+d.Name
	u.OnStart = func() error { return m.startDaemon(d) }
	u.OnStop = func() { m.stopDaemon(d) }
	if !d.Stopped {
		_ = m.startDaemon(d)
	}
	m.writeCgroup(d.Name)
}

// writeCgroup says in the machine's /proc to which unit the process of a service belongs.
func (m *machine) writeCgroup(name string) {
	dir := filepath.Join(m.procDir(), fmt.Sprint(m.story.Server.pid(name)))
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cgroup"), []byte("0::/system.slice/"+name+"\n"), 0o600)
	}
	if err != nil {
		panic(err)
	}
}

// startDaemon has a service read its volumes. It fails if one of them is not there.
func (m *machine) startDaemon(d Daemon) error {
	m.running[d.Name] = map[string]int{}
	for _, name := range d.Volumes {
		v, found := m.volumeNamed(name)
		if mounted := slices.Contains(m.story.Server.Mounted, name); !found || !v.Active ||
			mounted && m.kernel.at(mountPoint(name)) == "" {
			delete(m.running, d.Name)
			m.kernel.close(d.Name)
			if found && mounted {
				m.violate("no service starts below a mount point without its mount", "%s", d.Name)
			}
			return fmt.Errorf("%s is not there", name)
		} else if !mounted {
			m.kernel.open(&v, d.Name)
		}
		m.running[d.Name][v.UUID] = m.fake.Content(name)
	}
	m.checkOneTime(d)
	return nil
}

func (m *machine) stopDaemon(d Daemon) {
	delete(m.running, d.Name)
	m.kernel.close(d.Name)
}

// usersOf returns the services that run and work on the volume with a UUID.
func (m *machine) usersOf(uuid string) []string {
	var users []string
	for _, d := range m.story.Server.Daemons {
		if _, uses := m.running[d.Name][uuid]; uses {
			users = append(users, d.Name)
		}
	}
	return users
}

// states returns the state of each unit that the server has by itself.
func (m *machine) units() []string {
	var states []string
	for _, d := range m.story.Server.Daemons {
		states = append(states, d.Name+" "+m.systemd.State(d.Name))
	}
	for _, mount := range m.kernel.table() {
		states = append(states, strings.Join([]string{mount.Point, mount.Source, mount.Options}, " "))
	}
	slices.Sort(states)
	return states
}
