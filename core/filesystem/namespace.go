package filesystem

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// namespace is a mount namespace, and a process that lives in it.
type namespace struct {
	name   string // the target of /proc/PID/ns/mnt; empty for our namespace
	pid    int
	mounts []Mount
}

// namespaceOf returns the mount namespace of a process. The mounts of each namespace are read once. Fault: not_root if
// the kernel denies access.
func (s *scan) namespaceOf(pid int) (*namespace, error) {
	name, err := os.Readlink(s.proc.path(pid, "ns/mnt"))
	if os.IsPermission(err) && os.Geteuid() != 0 {
		return nil, fault.New(fault.NotRoot, "only root can see what other users' processes hold open").
			WithHint("run as root (become: true)")
	}
	if err != nil {
		return &namespace{}, nil // the process has ended or is a zombie
	}
	if known := s.namespaces[name]; known != nil {
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
	s.namespaces[name] = &namespace{name: name, pid: pid, mounts: mounts}
	return s.namespaces[name], nil
}

// findOurMounts finds, in our namespace, mounts of the devices that are not among the caller's own, and overlay and
// ecryptfs mounts with layers on the devices.
func (s *scan) findOurMounts() {
	for _, m := range s.mounts {
		known := slices.ContainsFunc(s.ownMounts, func(o Mount) bool { return o.ID == m.ID && o.Point == m.Point })
		if s.isWanted(m.Dev) && !known {
			s.found = append(s.found, Holder{Kind: "mount", How: mountKind(m), Path: m.Point, Dev: m.Dev})
		}
	}
	s.findLayered(s.mounts, Holder{})
}

func mountKind(m Mount) string {
	if m.Root != "/" {
		return "bind"
	}
	return "mount"
}

// findLayered finds overlay and ecryptfs mounts with a layer on one of the devices. The kernel keeps the layer's file
// system open even after umount(2) of it succeeded. h has what these holders have in common.
func (s *scan) findLayered(mounts []Mount, h Holder) {
	for _, m := range mounts {
		isCopyOfOurs := h.PID != 0 && len(On(s.mounts, m.Dev)) > 0 // a mount of our namespace that exists in this one as well
		layers := m.layers()
		if len(layers) == 0 || isCopyOfOurs {
			continue
		}
		for _, layer := range layers {
			on, ok := holdingByName(mounts, layer)
			if !ok || !s.isWanted(on.Dev) {
				continue
			}
			h.Kind, h.How, h.Path, h.Dev = "mount", m.Type, m.Point, on.Dev
			s.found = append(s.found, h)
			break
		}
	}
}

// layers returns the directories of other file systems that an overlay or ecryptfs mount is made of.
func (m Mount) layers() []string {
	switch m.Type {
	case "overlay":
		return overlayLayers(m.Super)
	case "ecryptfs":
		return []string{m.Source}
	}
	return nil
}

// overlayLayers returns the directories in an overlay's options (linux, Documentation/filesystems/overlayfs.rst).
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

// findForeignMounts finds mounts of the devices in other namespaces that stay when our mounts are unmounted. systemd
// gives many units a mount namespace of their own; a mount there that is unmounted together with ours holds nothing.
func (s *scan) findForeignMounts() {
	masters := masterGroups(s.namespaces)
	for _, space := range s.namespaces {
		if space.name == "" {
			continue
		}
		h := Holder{
			Kind: "mount", PID: space.pid, Namespace: space.name,
			Command: s.proc.Command(space.pid), Unit: s.proc.Unit(space.pid),
		}
		for _, m := range space.mounts {
			if s.isWanted(m.Dev) && !s.isUnmountedWithOurs(space.mounts, m, masters) {
				h.How, h.Path, h.Dev = mountKind(m), m.Point, m.Dev
				s.found = append(s.found, h)
			}
		}
		s.findLayered(space.mounts, h)
	}
}

// isUnmountedWithOurs reports whether a mount m of another namespace, whose mounts are given, goes away when one of our
// mounts is unmounted. An unmount propagates from the parent of the unmounted mount to every mount that receives from
// this parent, and unmounts what is at the same place there, unless something else is mounted on top of it
// (mount_namespaces(7)).
func (s *scan) isUnmountedWithOurs(mounts []Mount, m Mount, masters map[int]int) bool {
	for _, child := range mounts {
		if child.Parent == m.ID && child.ID != m.ID && !s.isUnmountedWithOurs(mounts, child, masters) {
			return false
		}
	}
	parent, ok := byID(mounts, m.Parent)
	if !ok {
		return false
	}
	return slices.ContainsFunc(On(s.mounts, m.Dev), func(o Mount) bool {
		above, ok := byID(s.mounts, o.Parent)
		return ok && above.Dev == parent.Dev && pathInParent(above, o) == pathInParent(parent, m) &&
			receivesFrom(parent, above, masters)
	})
}

func byID(mounts []Mount, id int) (Mount, bool) {
	i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == id })
	if i < 0 {
		return Mount{}, false
	}
	return mounts[i], true
}

// pathInParent returns where m is mounted, as a path in the file system of its parent.
func pathInParent(parent, m Mount) string {
	return path.Join("/", parent.Root, strings.TrimPrefix(m.Point, parent.Point))
}

// receivesFrom reports whether mounts and unmounts below from propagate to the mount to: both are in one peer group, or
// to is a slave of from's peer group, directly or through other groups. masters maps each peer group to its master.
func receivesFrom(to, from Mount, masters map[int]int) bool {
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

// masterGroups maps each peer group to the group that it is a slave of, if a mount in any namespace shows that.
func masterGroups(namespaces map[string]*namespace) map[int]int {
	masters := make(map[int]int)
	for _, space := range namespaces {
		for _, m := range space.mounts {
			if peer, master := propagation(m.Optional); peer != 0 && master != 0 {
				masters[peer] = master
			}
		}
	}
	return masters
}

// propagation parses the optional fields of a mountinfo line. It returns the peer group and the master's peer group; 0
// means none.
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
