package filesystem

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// namespace is a mount namespace and a process that lives in it.
type namespace struct {
	name   string // as ns/mnt of proc(5), empty for ours
	pid    int
	mounts []Mount
}

// space returns the mount namespace of a process, whose mounts are read once.
func (s *scan) space(pid int) (*namespace, error) {
	name, err := os.Readlink(s.proc.path(pid, "ns/mnt"))
	if os.IsPermission(err) && os.Geteuid() != 0 {
		return nil, fault.New(fault.NotRoot, "only root can see what other users' processes hold open").WithHint("run as root (become: true)")
	}
	if err != nil {
		return &namespace{}, nil // it ended, or is a zombie
	}
	if known := s.spaces[name]; known != nil {
		return known, nil
	}
	data, err := os.ReadFile(s.proc.path(pid, "mountinfo"))
	if err != nil {
		return &namespace{name: name}, nil
	}
	mounts, err := parseMounts(data)
	if err != nil {
		return nil, fault.New(fault.Internal, "mount table of pid %d: %w", pid, err)
	}
	s.spaces[name] = &namespace{name: name, pid: pid, mounts: mounts}
	return s.spaces[name], nil
}

// bindMounts finds mounts of the devices in our namespace that the caller does
// not know of, and overlays made of directories on them.
func (s *scan) bindMounts() {
	for _, m := range s.mounts {
		known := slices.ContainsFunc(s.own, func(o Mount) bool { return o.ID == m.ID && o.Point == m.Point })
		if s.wanted(m.Dev) && !known {
			s.found = append(s.found, Holder{Kind: "mount", How: mountKind(m), Path: m.Point, Dev: m.Dev})
		}
	}
	s.overlays(s.mounts, Holder{})
}

func mountKind(m Mount) string {
	if m.Root != "/" {
		return "bind"
	}
	return "mount"
}

// overlays finds overlay and ecryptfs mounts with a layer on one of the devices.
// The kernel keeps the layer's file system open although umount(2) of it succeeds.
func (s *scan) overlays(mounts []Mount, h Holder) {
	for _, m := range mounts {
		copied := h.PID != 0 && len(On(s.mounts, m.Dev)) > 0 // ours, seen from another namespace
		layers := m.layers()
		if len(layers) == 0 || copied {
			continue
		}
		for _, layer := range layers {
			on, ok := holding(mounts, layer)
			if !ok || !s.wanted(on.Dev) {
				continue
			}
			h.Kind, h.How, h.Path, h.Dev = "mount", m.Type, m.Point, on.Dev
			s.found = append(s.found, h)
			break
		}
	}
}

// layers returns the directories of other file systems that a mount is made of.
func (m Mount) layers() []string {
	switch m.Type {
	case "overlay":
		return overlayLayers(m.Super)
	case "ecryptfs":
		return []string{m.Source}
	}
	return nil
}

// overlayLayers returns the directories of an overlay's options
// (kernel: filesystems/overlayfs).
func overlayLayers(options string) []string {
	var layers []string
	for _, option := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch strings.TrimSuffix(key, "+") {
		case "lowerdir":
			layers = append(layers, strings.Split(value, ":")...)
		case "upperdir", "workdir":
			layers = append(layers, value)
		}
	}
	return layers
}

// foreignMounts finds mounts of the devices in other namespaces that stay
// there when ours are unmounted. systemd gives many units a namespace of their
// own; those follow what is unmounted outside and hold nothing.
func (s *scan) foreignMounts() {
	masters := s.masters()
	for _, space := range s.spaces {
		if space.name == "" {
			continue
		}
		h := Holder{
			Kind: "mount", PID: space.pid, Namespace: space.name,
			Command: s.proc.Command(space.pid), Unit: s.proc.Unit(space.pid),
		}
		for _, m := range space.mounts {
			if s.wanted(m.Dev) && !s.leaves(space.mounts, m, masters) {
				h.How, h.Path, h.Dev = mountKind(m), m.Point, m.Dev
				s.found = append(s.found, h)
			}
		}
		s.overlays(space.mounts, h)
	}
}

// leaves tells whether a mount of another namespace goes away with one of
// ours. An unmount reaches the same place on every mount that receives from
// the parent of what is unmounted, unless something else is mounted on top
// there (mount_namespaces(7)).
func (s *scan) leaves(mounts []Mount, m Mount, masters map[int]int) bool {
	for _, child := range mounts {
		if child.Parent == m.ID && child.ID != m.ID && !s.leaves(mounts, child, masters) {
			return false
		}
	}
	parent, ok := byID(mounts, m.Parent)
	if !ok {
		return false
	}
	return slices.ContainsFunc(On(s.mounts, m.Dev), func(o Mount) bool {
		above, ok := byID(s.mounts, o.Parent)
		return ok && above.Dev == parent.Dev && place(above, o) == place(parent, m) &&
			receives(parent, above, masters)
	})
}

func byID(mounts []Mount, id int) (Mount, bool) {
	i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == id })
	if i < 0 {
		return Mount{}, false
	}
	return mounts[i], true
}

// place is where m is mounted, as a path in its parent's file system.
func place(parent, m Mount) string {
	return path.Join("/", parent.Root, strings.TrimPrefix(m.Point, parent.Point))
}

// receives tells whether what happens on from happens on to as well: they are
// peers, or to is a slave of from's group, perhaps through other groups.
func receives(to, from Mount, masters map[int]int) bool {
	group, _ := propagation(from.Optional)
	if group == 0 {
		return false
	}
	peer, master := propagation(to.Optional)
	if peer == group {
		return true
	}
	for hops := 0; master != 0 && hops <= len(masters); hops++ {
		if master == group {
			return true
		}
		master = masters[master]
	}
	return false
}

// masters maps each peer group to the group it is a slave of, as far as any
// namespace shows.
func (s *scan) masters() map[int]int {
	masters := make(map[int]int)
	for _, space := range s.spaces {
		for _, m := range space.mounts {
			if peer, master := propagation(m.Optional); peer != 0 && master != 0 {
				masters[peer] = master
			}
		}
	}
	return masters
}

// propagation parses the optional fields of a mountinfo line; 0 is none.
func propagation(optional string) (shared, master int) {
	for _, field := range strings.Fields(optional) {
		key, value, _ := strings.Cut(field, ":")
		group, err := strconv.Atoi(value)
		if err != nil || group < 0 {
			continue
		}
		switch key {
		case "shared":
			shared = group
		case "master":
			master = group
		}
	}
	return shared, master
}
