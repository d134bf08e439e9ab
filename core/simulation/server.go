// Package simulation searches for faults that nobody thought of. A seed draws a story: a server, what happened on it
// before, a request, and what goes wrong meanwhile. Play plays the story with the real code on a fake LVM, whose clock
// costs nothing, and returns what should never be. Shrink makes a story that fails smaller.
//
// A story is the same each time that it is played: it names a fault by the command that it meets, not by when that
// command happens to run.
package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

const mib = 1 << 20

// Layout is a server.
type Layout struct {
	Groups    []lvmtest.Group
	Mounted   []string // the mounted volumes, vg/lv
	Daemons   []Daemon
	Journal   string // the mounted volume that holds Rewind's journal; empty: it is on a disk of its own
	OldKernel bool   // one that cannot suspend a device with a frozen file system
}

// drawLayout draws a server with one or two groups and one to five volumes, of which some are thin, closed or mounted,
// with snapshots that somebody made by hand.
func drawLayout(r *rand.Rand) Layout {
	l := Layout{OldKernel: r.IntN(4) == 0, Groups: []lvmtest.Group{{Name: "vg0"}}}
	if r.IntN(2) == 0 {
		l.Groups = append(l.Groups, lvmtest.Group{Name: "vg1"})
	}
	for i := range 1 + r.IntN(5) {
		l.drawVolume(r, string(rune('a'+i)))
	}
	for range r.IntN(3) {
		l.drawHandMade(r)
	}
	for i := range l.Groups {
		l.Groups[i].Size = []int64{4096, 1024, 256, 128, 64, 20}[r.IntN(6)] * mib
		for _, v := range l.Groups[i].Volumes {
			l.Groups[i].Size += v.Size // more than it takes: a thin volume takes only its pool
		}
	}
	if len(l.Mounted) > 0 && r.IntN(4) == 0 {
		l.Journal = l.Mounted[r.IntN(len(l.Mounted))]
	}
	return l
}

func (l *Layout) drawVolume(r *rand.Rand, name string) {
	g := &l.Groups[r.IntN(len(l.Groups))]
	v := lvmtest.Volume{Name: name, Size: 64 * mib * int64(1+r.IntN(2))}
	kind := r.IntN(16)
	v.Inactive, v.Manual = kind%8 == 0, kind == 0
	if r.IntN(3) == 0 {
		if !slices.ContainsFunc(g.Volumes, func(v lvmtest.Volume) bool { return v.Name == "pool" }) {
			g.Volumes = append(g.Volumes, lvmtest.Volume{Name: "pool", Kind: lvm.ThinPool, Size: 128 * mib})
		}
		v.Pool = "pool"
	}
	g.Volumes = append(g.Volumes, v)
	if !v.Inactive && r.IntN(2) == 0 {
		l.Mounted = append(l.Mounted, g.Name+"/"+name)
	}
}

// drawHandMade adds a snapshot that somebody made by hand, of any volume.
func (l *Layout) drawHandMade(r *rand.Rand) {
	origins := l.Origins()
	vg, lv, _ := strings.Cut(origins[r.IntN(len(origins))], "/")
	for i := range l.Groups {
		g := &l.Groups[i]
		for _, origin := range g.Volumes {
			if g.Name != vg || origin.Name != lv {
				continue
			}
			s := lvmtest.Volume{Name: fmt.Sprintf("%s_hand%d", lv, len(g.Volumes)), Origin: lv, Inactive: origin.Inactive,
				Size: 32 * mib}
			if origin.Pool != "" && r.IntN(4) > 0 {
				s.Pool = origin.Pool
			}
			if origin.Pool != "" && s.Pool == "" {
				s.Kind = lvm.Snapshot
			}
			g.Volumes = append(g.Volumes, s)
			return
		}
	}
}

// Origins returns the volumes that are neither a pool nor a snapshot, vg/lv.
func (l *Layout) Origins() []string {
	var names []string
	for _, g := range l.Groups {
		for _, v := range g.Volumes {
			if v.Kind != lvm.ThinPool && v.Origin == "" {
				names = append(names, g.Name+"/"+v.Name)
			}
		}
	}
	return names
}

// without returns the layout without a volume and its snapshots.
func (l Layout) without(name string) Layout {
	vg, lv, _ := strings.Cut(name, "/")
	groups := slices.Clone(l.Groups)
	for i := range groups {
		if groups[i].Name == vg {
			groups[i].Volumes = slices.DeleteFunc(slices.Clone(groups[i].Volumes), func(v lvmtest.Volume) bool {
				return v.Name == lv || v.Origin == lv || v.Pool == lv
			})
		}
	}
	l.Groups = groups
	l.Mounted = slices.DeleteFunc(slices.Clone(l.Mounted), func(m string) bool { return m == name })
	if l.Journal == name {
		l.Journal = ""
	}
	l.Daemons = slices.Clone(l.Daemons)
	for i := range l.Daemons {
		volumes := slices.Clone(l.Daemons[i].Volumes)
		l.Daemons[i].Volumes = slices.DeleteFunc(volumes, func(v string) bool { return v == name })
	}
	return l
}

// String describes the server in lines.
func (l Layout) String() string {
	var b strings.Builder
	for _, g := range l.Groups {
		fmt.Fprintf(&b, "  volume group %s of %d MiB\n", g.Name, g.Size/mib)
		for _, v := range g.Volumes {
			name := g.Name + "/" + v.Name
			words := []string{fmt.Sprintf("    %s, %d MiB", name, v.Size/mib)}
			add := func(holds bool, text string) {
				if holds {
					words = append(words, text)
				}
			}
			add(v.Kind == lvm.ThinPool, "a thin pool")
			add(v.Origin != "", "a snapshot of "+v.Origin)
			add(v.Pool != "", "thin")
			add(v.Inactive, "closed")
			add(v.Manual, "manual")
			add(slices.Contains(l.Mounted, name), "mounted on "+mountPoint(name))
			add(l.Journal == name, "with Rewind's journal")
			b.WriteString(strings.Join(words, ", ") + "\n")
		}
	}
	for _, d := range l.Daemons {
		fmt.Fprintf(&b, "  %s on %v, needs %q, stopped: %v\n", d.Name, d.Volumes, d.Needs, d.Stopped)
	}
	if l.OldKernel {
		b.WriteString("  a kernel before 6.12\n")
	}
	return b.String()
}

// mountPoint is where a volume is mounted. It is not on this machine, where nobody may write it out.
func mountPoint(name string) string { return "/rewind-simulation/" + name }
