package snapset

import (
	"fmt"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/postgres"
)

// ClustersOn returns the PostgreSQL clusters that run and have files on a target. Faults: those of postgres.Running.
func (v *View) ClustersOn(targets []Target) ([]postgres.Cluster, error) {
	if v.Clusters == nil {
		return nil, nil
	}
	clusters, err := v.Clusters()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(clusters), func(c postgres.Cluster) bool {
		return !slices.ContainsFunc(c.Parts, func(p postgres.Part) bool { return targetOn(targets, p.Dev) != nil })
	}), nil
}

// CheckClusters refuses a set that has a part of a running PostgreSQL cluster, and lacks another one (outside_volume).
// After a rollback of the one part the two are of different times, and the cluster is damaged; it may start all the
// same. If each volume of the set has an instant of its own, no cluster may have parts on two of them (unsupported).
// Other faults are those of postgres.Running.
func (v *View) CheckClusters(targets []Target, each bool) error {
	clusters, err := v.ClustersOn(targets)
	errs := []error{err}
	for i := range clusters {
		c := &clusters[i]
		first := targetOn(targets, c.Parts[0].Dev)
		var outside []string
		for _, p := range c.Parts {
			t := targetOn(targets, p.Dev)
			switch {
			case t == nil:
				outside = append(outside, fmt.Sprintf("its %s in %s (%s)", p.What, p.Path, v.nameOf(p.Dev)))
			case each && first != nil && t != first:
				errs = append(errs, notSeparable(first, t.LV.FullName(), c.String()+" has files on both"))
			}
		}
		if len(outside) > 0 {
			errs = append(errs, fault.New(fault.OutsideVolume, "%s has files on %s, and has %s outside of the set: "+
				"a rollback would leave them at different times, and the cluster damaged", c,
				strings.Join(namesOfParts(c, targets), " and "), strings.Join(outside, ", ")).
				WithHint("take all its volumes in one set; postgresql=none goes on without this check, if that cluster "+
					"does not matter"))
		}
	}
	return fault.All(errs...)
}

// targetOn returns the target whose file system is on a device; nil if there is none.
func targetOn(targets []Target, dev filesystem.Dev) *Target {
	i := slices.IndexFunc(targets, func(t Target) bool { return t.FS == dev })
	if i < 0 {
		return nil
	}
	return &targets[i]
}

// namesOfParts returns the names of the targets that a cluster has files on, each once.
func namesOfParts(c *postgres.Cluster, targets []Target) []string {
	var names []string
	for _, p := range c.Parts {
		if t := targetOn(targets, p.Dev); t != nil && !slices.Contains(names, t.LV.FullName()) {
			names = append(names, t.LV.FullName())
		}
	}
	return names
}

// nameOf returns vg/lv of a device, or else where its file system is mounted.
func (v *View) nameOf(dev filesystem.Dev) string {
	if v.Report != nil {
		if lv, ok := v.Report.ByDevice(int(dev.Major), int(dev.Minor)); ok {
			return lv.FullName()
		}
	}
	if mounts := filesystem.On(v.Mounts, dev); len(mounts) > 0 {
		return mounts[0].Source
	}
	return dev.String()
}
