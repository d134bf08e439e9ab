package snapset

import (
	"math"
	"time"

	"go.pcc.com/rewind/core/lvm"
)

// snapshotInfo describes one snapshot. The use of its COW space is the kernel's figure, because LVM rounds its own.
func (insp *inspection) snapshotInfo(v *lvm.Volume, mounts []MountInfo) SnapshotInfo {
	s := SnapshotInfo{
		Snapshot: v.FullName(), Thin: v.Kind == lvm.Thin, State: string(v.State), Size: v.Size, Tags: v.Tags,
		Time: v.Created.UTC().Format(time.RFC3339), Age: insp.age(v.Created), COW: v.COWSize, Used: v.COWUsed,
	}
	if v.Origin != "" {
		s.Volume = v.VG + "/" + v.Origin
	}
	if v.Pool != "" {
		s.Pool = v.VG + "/" + v.Pool
	}
	if v.OriginSize > 0 {
		s.Size = v.OriginSize
	}
	if v.Health != lvm.Healthy {
		s.Health = string(v.Health)
	}
	_, s.Problem = v.Bad()
	if s.Problem == "" && !v.IsSnapshot() {
		s.Problem = "it has " + lostOrigin
	}
	if v.Merging {
		s.Merge = insp.mergeInfo(v)
		s.Used = s.Merge.Left
		if s.mergeFailed() && s.Problem == "" { // LVM learns of it later than the kernel
			s.Problem = "its merge failed"
		}
	} else if kernel, ok := snapshotStatus(insp.status[v.DMName]); ok && kernel.Total > 0 {
		s.Used = kernel.UsedBytes()
	}
	if s.COW > 0 && !s.mergeFailed() { // the kernel has no figures of a failed merge
		s.UsedPercent = percent(float64(s.Used) / float64(s.COW))
	}
	s.ToFull = s.secondsToFull()
	s.addMountpoints(mounts)
	return s
}

// mergeFailed reports whether the kernel gave up merging the snapshot.
func (s *SnapshotInfo) mergeFailed() bool { return s.Merge != nil && s.Merge.State == MergeFailed }

// addMountpoints says where the snapshot and its origin are mounted.
func (s *SnapshotInfo) addMountpoints(mounts []MountInfo) {
	for _, m := range mounts {
		switch m.Volume {
		case s.Snapshot:
			s.Mountpoints = append(s.Mountpoints, m.Point)
		case s.Volume:
			s.OriginAt = append(s.OriginAt, m.Point)
		}
	}
}

// minRateAge is the least age, in seconds, of a snapshot whose mean rate so far can predict the next hours.
const minRateAge = 60

// secondsToFull returns after how many seconds the COW space is used up if writes go on at the mean rate so far. It is
// nil for a snapshot that is empty, too young, thin, lost or being merged.
func (s *SnapshotInfo) secondsToFull() *int64 {
	if s.Merge != nil || s.Problem != "" || s.Used == 0 || s.Age < minRateAge {
		return nil
	}
	seconds := int64(float64(s.COW-s.Used) / float64(s.Used) * float64(s.Age))
	return &seconds
}

// mergeInfo describes the merge of a snapshot. It reads the kernel's table of the origin, because LVM records a merge
// before the kernel begins it.
func (insp *inspection) mergeInfo(v *lvm.Volume) *MergeInfo {
	m := &MergeInfo{State: MergeDeferred, Left: v.COWUsed}
	origin, ok := insp.view.Report.Volume(v.VG, v.Origin)
	if !ok {
		return m
	}
	s, ok := snapshotStatus(insp.status[origin.DMName])
	switch {
	case !ok || !s.Merging:
		return m
	case s.MergeFailed || s.Lost():
		m.State = MergeFailed
		return m
	}
	m.State, m.Left = MergeRunning, (s.Used-s.Metadata)*512
	if s.Merged() {
		m.State = MergeFinished
	}
	if total := insp.Merging[v.UUID]; total > 0 {
		m.Percent = percent(1 - float64(m.Left)/float64(total))
	}
	return m
}

// percent returns a fraction as a percentage from 0 to 100, with two decimal places as LVM shows it.
func percent(fraction float64) *float64 {
	p := math.Round(10000*min(1, max(0, fraction))) / 100
	return &p
}

// snapshotStatus returns the status of a snapshot target; false if the device has none, or several targets.
func snapshotStatus(targets []lvm.Target) (lvm.SnapshotStatus, bool) {
	if len(targets) != 1 {
		return lvm.SnapshotStatus{}, false
	}
	return targets[0].Snapshot()
}
