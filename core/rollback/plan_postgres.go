package rollback

import (
	"fmt"

	"go.pcc.com/rewind/core/postgres"
)

// planClusters refuses a rollback that would damage a PostgreSQL cluster (outside_volume), and warns of what a cluster
// can no longer do after it.
func (p *planner) planClusters(f *findings) error {
	if p.NoPostgreSQL {
		return nil
	}
	if err := f.selection.view.CheckClusters(f.targets, false); err != nil {
		return err
	}
	clusters, err := f.selection.view.ClustersOn(f.targets)
	for i := range clusters {
		p.warnings = append(p.warnings, timelineWarnings(&clusters[i])...)
	}
	return err
}

// timelineWarnings warns of a cluster whose WAL goes elsewhere. After a rollback it goes on in its timeline, and writes
// other WAL than before under the same names.
func timelineWarnings(c *postgres.Cluster) []string {
	what := ""
	switch {
	case c.Archives && c.Standbys > 0:
		what = fmt.Sprintf("archives its WAL and sends it to %d others, such as standbys", c.Standbys)
	case c.Archives:
		what = "archives its WAL"
	case c.Standbys > 0:
		what = fmt.Sprintf("sends its WAL to %d others, such as standbys", c.Standbys)
	default:
		return nil
	}
	return []string{c.String() + " " + what + ": after the rollback it writes other WAL under the names that it has " +
		"used since the set, which they refuse or mix up; have it begin a new timeline before it is used again, " +
		"as docs/postgresql.md says"}
}
