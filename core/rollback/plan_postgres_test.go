package rollback

import (
	"errors"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/postgres"
	"go.pcc.com/rewind/core/snapset"
)

// A cluster that the rollback would damage is a refusal, unless nobody is to look for it; one whose WAL goes elsewhere
// is a warning.
func TestRollbackOfAPostgreSQLCluster(t *testing.T) {
	dat := filesystem.NewDev(253, 1)
	data := postgres.Part{What: "data", Path: "/dat/15", Dev: dat}
	wal := postgres.Part{What: "pg_wal", Path: "/wal/15", Dev: filesystem.NewDev(253, 2)}
	for name, c := range map[string]struct {
		cluster postgres.Cluster
		none    bool
		refused bool
		warns   string
	}{
		"plain":                {cluster: postgres.Cluster{Parts: []postgres.Part{data}}},
		"its WAL is elsewhere": {cluster: postgres.Cluster{Parts: []postgres.Part{data, wal}}, refused: true},
		"not looked for": {
			cluster: postgres.Cluster{Parts: []postgres.Part{data, wal}, Archives: true}, none: true,
		},
		"archives": {
			cluster: postgres.Cluster{Parts: []postgres.Part{data}, Archives: true},
			warns:   "archives its WAL:",
		},
		"has standbys": {
			cluster: postgres.Cluster{Parts: []postgres.Part{data}, Standbys: 2},
			warns:   "sends its WAL to 2",
		},
		"both": {
			cluster: postgres.Cluster{Parts: []postgres.Part{data}, Standbys: 1, Archives: true},
			warns:   "archives its WAL and sends it to 1",
		},
		"on none of the members": {cluster: postgres.Cluster{Parts: []postgres.Part{wal}, Archives: true}},
	} {
		c.cluster.Data, c.cluster.Version = "/dat/15", "15"
		view := &snapset.View{Report: &lvm.Report{}, Clusters: func() ([]postgres.Cluster, error) {
			return []postgres.Cluster{c.cluster}, nil
		}}
		target := snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "dat"}, FS: dat}
		rb := newParts(&base{Request: Request{NoPostgreSQL: c.none}, state: &State{}})
		err := rb.plan.planClusters(&findings{selection: &selection{view: view}, targets: []snapset.Target{target}})
		if errors.Is(err, fault.OutsideVolume) != c.refused || !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := strings.Join(rb.warnings, "; ")
		if (got != "") != (c.warns != "") || !strings.Contains(got, c.warns) {
			t.Errorf("%s: warnings %q", name, got)
		}
	}
}
