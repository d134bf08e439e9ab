package lvmtest

import (
	"context"
	"fmt"
	"slices"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/lvm"
)

// Report returns what LVM would report now. Unlike a command it waits for no lock, does not count, and nothing that a
// test has planned happens to it.
func (f *Fake) Report() *lvm.Report {
	r, err := lvm.New(observer{f}).Report(context.Background())
	if err != nil && r == nil {
		panic(err)
	}
	return r
}

// Volumes returns what is known of each volume without LVM: its names, kind, size and tags, and whether its device is
// there, open or suspended. It costs much less than Report.
func (f *Fake) Volumes() []lvm.Volume {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []lvm.Volume
	for _, v := range f.allVolumes() {
		out := lvm.Volume{
			VG: v.vg.Name, Name: v.Name, UUID: v.uuid, Path: "/dev/" + v.fullName(), DMName: lvm.DMName(v.vg.Name, v.Name),
			Origin: v.Origin, OriginUUID: v.originUUID, Pool: v.Pool, Kind: v.Kind, Size: v.Size, Active: v.active,
			Open: v.Open > 0, Suspended: v.suspended, Merging: v.merging, SnapshotInvalid: v.invalid,
			SkipActivation: v.skipActivation, Major: -1, Minor: -1, Tags: slices.Clone(v.Tags),
		}
		if v.active {
			out.Major, out.Minor = major, v.minor
		}
		all = append(all, out)
	}
	return all
}

// observer is a Runner that looks at a fake.
type observer struct{ f *Fake }

func (o observer) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	o.f.mu.Lock()
	defer o.f.mu.Unlock()
	held := o.f.lockedGroups
	o.f.lockedGroups = nil
	defer func() { o.f.lockedGroups = held }()
	stdout, err := o.f.dispatch(c.Argv)
	return command.Output{Stdout: stdout}, err
}

// Dump describes all volumes, one in a line, with what LVM's metadata and the kernel say of each.
func (f *Fake) Dump() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, v := range f.allVolumes() {
		line := fmt.Sprintf("%s %s %s of %q in %q, %d bytes, tags %v, open %d", v.fullName(), v.uuid, v.Kind, v.Origin,
			v.Pool, v.Size, v.Tags, v.Open)
		if v.Kind == lvm.Snapshot {
			line += fmt.Sprintf(", %d sectors used", v.usedSectors)
		}
		for _, state := range []struct {
			holds bool
			name  string
		}{
			{!v.active, "inactive"}, {v.skipActivation, "activation skipped"}, {v.suspended, "SUSPENDED"},
			{v.frozen, "frozen"}, {v.invalid, "overflowed"}, {v.merging, "merging"}, {v.kernelMerging, "merging in the kernel"},
			{v.halfMade, "half made"}, {v.damaged, "POOL DAMAGED"}, {v.deletedInPool, "DELETED IN ITS POOL"},
			{v.liveTable != nil, fmt.Sprint("FOREIGN TABLE ", v.liveTable)},
			{v.preparedTable != nil, fmt.Sprint("PREPARED TABLE ", v.preparedTable)},
		} {
			if state.holds {
				line += ", " + state.name
			}
		}
		lines = append(lines, line)
	}
	return lines
}
