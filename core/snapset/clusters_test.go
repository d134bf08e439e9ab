package snapset

import (
	"errors"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/postgres"
)

// A cluster whose files lie on several volumes is of use only if all of them go back together.
func TestClusterOnSeveralVolumes(t *testing.T) {
	volume := func(name string, minor int) *lvm.Volume {
		return &lvm.Volume{VG: "vg00", Name: name, Major: 253, Minor: minor, Active: true}
	}
	dat, wal, app := volume("dat", 1), volume("wal", 2), volume("app", 3)
	report := &lvm.Report{Groups: []lvm.Group{{Name: "vg00", Volumes: []lvm.Volume{*dat, *wal, *app}}}}
	targets := func(volumes ...*lvm.Volume) (list []Target) {
		for _, v := range volumes {
			list = append(list, Target{LV: v, FS: devOf(v)})
		}
		return list
	}
	disk := filesystem.Dev{Major: 8, Minor: 1}
	data := postgres.Part{What: "data", Path: "/dat/15", Dev: devOf(dat)}
	log := postgres.Part{What: "pg_wal", Path: "/wal/15", Dev: devOf(wal)}
	space := postgres.Part{What: "tablespace 16385", Path: "/fast", Dev: disk}
	for name, c := range map[string]struct {
		parts   []postgres.Part
		targets []Target
		each    bool
		code    fault.Code
		says    string
	}{
		"all on one volume":       {parts: []postgres.Part{data}, targets: targets(dat)},
		"on another volume":       {parts: []postgres.Part{data, log}, targets: targets(app)},
		"both volumes in the set": {parts: []postgres.Part{data, log}, targets: targets(app, wal, dat)},
		"its WAL is elsewhere": {
			parts: []postgres.Part{data, log}, targets: targets(dat),
			code: fault.OutsideVolume, says: "its pg_wal in /wal/15 (vg00/wal)",
		},
		"only its WAL": {
			parts: []postgres.Part{data, log}, targets: targets(wal),
			code: fault.OutsideVolume, says: "its data in /dat/15 (vg00/dat)",
		},
		"a tablespace on no volume": {
			parts: []postgres.Part{data, space}, targets: targets(dat),
			code: fault.OutsideVolume, says: "its tablespace 16385 in /fast (/dev/sda1)",
		},
		"each has its own instant": {
			parts: []postgres.Part{data, log}, targets: targets(dat, wal), each: true,
			code: fault.Unsupported, says: "has files on both",
		},
		"one of several, each alone": {parts: []postgres.Part{data}, targets: targets(dat, app), each: true},
	} {
		v := &View{
			Report: report, Mounts: []filesystem.Mount{{Dev: disk, Source: "/dev/sda1", Point: "/fast", Root: "/"}},
			Clusters: func() ([]postgres.Cluster, error) {
				return []postgres.Cluster{{Data: "/dat/15", Version: "15", Parts: c.parts}}, nil
			},
		}
		err := v.CheckClusters(c.targets, c.each)
		if c.code == "" && err != nil || c.code != "" && (!errors.Is(err, c.code) || !strings.Contains(err.Error(), c.says) ||
			!strings.Contains(err.Error(), "PostgreSQL 15 in /dat/15")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A look that fails is a refusal: nobody knows what the set would lack.
func TestClustersThatCannotBeFound(t *testing.T) {
	v := &View{Clusters: func() ([]postgres.Cluster, error) { return nil, fault.New(fault.Timeout, "no answer") }}
	if err := v.CheckClusters(nil, false); !errors.Is(err, fault.Timeout) {
		t.Error(err)
	}
}
