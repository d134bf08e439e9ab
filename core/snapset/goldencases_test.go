package snapset

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

var (
	errTest    = errors.New("no such luck")
	twoVolumes = volumesNamed("/dat", "/pccehr")
	takeTwo    = []Request{{Volumes: twoVolumes}} // takes the set s of both
)

// goldenCases returns the cases by their names, which are those of the golden files.
func goldenCases() map[string]goldenCase {
	all := map[string]goldenCase{}
	for _, cases := range []map[string]goldenCase{
		takenCases(), notTakenCases(), existingCases(), refusedCases(), replacedCases(), mountedCases(), notMountedCases(),
		unmountedCases(), removedCases(), notRemovedCases(), ownCases(), notOwnCases(),
	} {
		maps.Copy(all, cases)
	}
	return all
}

func takenCases() map[string]goldenCase {
	return map[string]goldenCase{
		"taken_one":       {request: Request{Volumes: volumesNamed("/dat")}},
		"taken_one_check": {request: Request{Volumes: volumesNamed("/dat"), Check: true}},
		"taken_two":       {request: Request{Volumes: twoVolumes}},
		"taken_two_check": {request: Request{Volumes: twoVolumes, Check: true}},
		"taken_thin":      {request: Request{Volumes: volumesNamed("/t1", "/t2")}},
		"taken_of_each_kind": {request: Request{
			Volumes: volumesNamed("/dat", "/t1", "vg00/off", "vg00/shut"),
		}},
		"taken_of_each_kind_check": {request: Request{
			Volumes: volumesNamed("/dat", "/t1", "vg00/off", "vg00/shut"), Check: true,
		}},
		"taken_each":       {request: Request{Volumes: twoVolumes, Each: true}},
		"taken_each_check": {request: Request{Volumes: twoVolumes, Each: true, Check: true}},
		"taken_with_sizes": {request: Request{
			Volumes: []Volume{{Name: "/dat", Size: "100m"}, {Name: "/pccehr"}}, Size: "64m",
		}},
		"taken_with_warning_of_fstab": {
			before:  func(srv *goldenServer) { srv.writeFstab("UUID=1234 /dat xfs defaults 0 0\n") },
			request: Request{Volumes: twoVolumes},
		},
		"taken_with_unreadable_fstab": {
			before:  func(srv *goldenServer) { fstabFile = "/"; srv.t.Cleanup(srv.noFstab) },
			request: Request{Volumes: twoVolumes, Check: true},
		},
		// LVM's own suspend of a single volume takes longer than any negative limit.
		"taken_with_long_suspend": {request: Request{Volumes: volumesNamed("/dat"), FreezeTimeout: -time.Second}},
		"taken_and_not_recorded": {
			before: func(srv *goldenServer) {
				srv.onCommand["--addtag rewind:count=2"] = func() error {
					return os.RemoveAll(filepath.Join(srv.stateDir, "journal"))
				}
			},
			request: Request{Volumes: twoVolumes},
		},
	}
}

func notTakenCases() map[string]goldenCase {
	both := Request{Volumes: twoVolumes}
	return map[string]goldenCase{
		"not_taken_nothing_named": {request: Request{}},
		"not_taken_no_such_set": {
			earlier: []Request{{Set: "other", Volumes: volumesNamed("/dat")}}, request: Request{State: Mounted},
		},
		"not_taken_no_such_volumes": {request: Request{
			Volumes: volumesNamed("vg00/none", "vg09/x", "/nowhere", "/t1", "vg00/t1"),
		}},
		"not_taken_of_a_snapshot": {
			before:  func(srv *goldenServer) { srv.Make("vg00", lvmtest.Volume{Name: "mine", Origin: "dat"}) },
			request: Request{Volumes: volumesNamed("vg00/mine", "vg00/pool")},
		},
		"not_taken_name_of_a_snapshot_by_hand": {
			before:  func(srv *goldenServer) { srv.Make("vg00", lvmtest.Volume{Name: "dat_s", Origin: "dat"}) },
			request: both,
		},
		"not_taken_name_of_a_volume": {
			before:  func(srv *goldenServer) { srv.Make("vg00", lvmtest.Volume{Name: "dat_s"}) },
			request: Request{Volumes: twoVolumes, Check: true},
		},
		"not_taken_name_of_another_set": {
			before:  func(srv *goldenServer) { srv.Make("vg00", memberSnapshot("dat_s", "dat", "other", "1", 1)) },
			request: both,
		},
		"not_taken_two_sets": {
			before: func(srv *goldenServer) {
				srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 1))
				srv.Make("vg00", memberSnapshot("pccehr_s", "pccehr", "s", "2", 1))
			},
			request: both,
		},
		"not_taken_no_space":        {request: Request{Volumes: twoVolumes, Size: "90%ORIGIN"}, before: fillGroup},
		"not_taken_no_space_at_all": {request: both, before: fillGroup},
		"not_taken_no_single_instant": {
			before: func(srv *goldenServer) {
				srv.Make("vg00", lvmtest.Volume{Name: "mine", Kind: lvm.Snapshot, Origin: "t1"})
			},
			request: Request{Volumes: volumesNamed("/t1", "/dat")},
		},
		"not_taken_command_fails": {
			before: func(srv *goldenServer) { srv.FailOn(errTest, "lvcreate", "pccehr_s") }, request: both,
		},
		"not_taken_and_something_left": {
			before: func(srv *goldenServer) {
				srv.FailOn(errTest, "lvcreate", "pccehr_s")
				srv.FailOn(errTest, "lvremove")
			},
			request: both,
		},
		"not_taken_command_outlives_its_limit": {
			before: func(srv *goldenServer) { srv.Outlive("lvcreate", "pccehr_s") }, request: both,
		},
		"not_taken_snapshot_gone": {
			before: func(srv *goldenServer) {
				srv.onCommand["--addtag rewind:count=2"] = func() error { srv.Remove("vg00/pccehr_s"); return nil }
			},
			request: both,
		},
		"not_taken_overflowed_meanwhile": {
			before: func(srv *goldenServer) {
				srv.onCommand["--addtag rewind:count=2"] = func() error { srv.Fill("vg00/dat_s", 100); return nil }
			},
			request: both,
		},
	}
}

func existingCases() map[string]goldenCase {
	larger := Request{Volumes: []Volume{{Name: "/dat", Size: "400m"}, {Name: "/pccehr"}}}
	largerCheck := larger
	largerCheck.Check = true
	return map[string]goldenCase{
		"exists":                 {earlier: takeTwo, request: Request{Volumes: twoVolumes}},
		"exists_check":           {earlier: takeTwo, request: Request{Volumes: twoVolumes, Check: true}},
		"exists_without_volumes": {earlier: takeTwo, request: Request{Size: "10m"}},
		"exists_thin": {
			earlier: []Request{{Volumes: volumesNamed("/t1", "/dat")}}, request: Request{Size: "10m"},
		},
		"exists_each": {
			earlier: []Request{{Volumes: twoVolumes, Each: true}}, request: Request{Volumes: twoVolumes, Each: true},
		},
		"exists_half_full": {
			earlier: takeTwo, before: func(srv *goldenServer) { srv.Fill("vg00/dat_s", 50) },
			request: Request{Volumes: twoVolumes},
		},
		"extended":                 {earlier: takeTwo, request: larger},
		"extended_check":           {earlier: takeTwo, request: largerCheck},
		"extended_without_volumes": {earlier: takeTwo, request: Request{Size: "300m"}},
		"extended_one_fails": {
			earlier: takeTwo, before: func(srv *goldenServer) { srv.FailOn(errTest, "lvextend", "vg00/pccehr_s") },
			request: Request{Size: "300m"},
		},
		"extended_no_space": {earlier: takeTwo, before: fillGroup, request: Request{Size: "300m"}},
	}
}

func refusedCases() map[string]goldenCase {
	both := Request{Volumes: twoVolumes}
	return map[string]goldenCase{
		"refused_other_volumes": {earlier: takeTwo, request: Request{Volumes: volumesNamed("/dat", "/t1", "vg00/shut")}},
		"refused_more_volumes":  {earlier: takeTwo, request: Request{Volumes: volumesNamed("/dat"), Check: true}},
		"refused_each": {
			earlier: []Request{{Volumes: twoVolumes, Each: true}}, request: both,
		},
		"refused_merging":    {earlier: takeTwo, before: mergeOne, request: both},
		"refused_incomplete": {earlier: takeTwo, before: removeOne, request: both},
		"refused_last_merging": {
			earlier: takeTwo, before: func(srv *goldenServer) { removeOne(srv); mergeOne(srv) }, request: both,
		},
		"refused_unfinished": {
			before: func(srv *goldenServer) { srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 0)) }, request: both,
		},
		"refused_copied":     {before: copySet, request: both},
		"refused_overflowed": {earlier: takeTwo, before: overflowOne, request: both},
		"refused_overflowed_and_incomplete": {
			earlier: takeTwo, before: func(srv *goldenServer) { removeOne(srv); overflowOne(srv) }, request: both,
		},
		"refused_replacing_a_restored_set": {
			earlier: []Request{{Volumes: twoVolumes, Use: ForRestore}}, before: overflowOne,
			request: Request{Volumes: twoVolumes, Replace: true},
		},
	}
}

func replacedCases() map[string]goldenCase {
	return map[string]goldenCase{
		"replaced": {earlier: takeTwo, before: overflowOne, request: Request{Volumes: twoVolumes, Replace: true}},
		"replaced_check": {
			earlier: takeTwo, before: overflowOne, request: Request{Volumes: twoVolumes, Replace: true, Check: true},
		},
		"replaced_without_volumes": {earlier: takeTwo, before: overflowOne, request: Request{Replace: true, Size: "40m"}},
		"replaced_and_mounted_check": {
			earlier: takeTwo, before: overflowOne, request: Request{State: Mounted, Replace: true, Mount: points, Check: true},
		},
		"replaced_while_mounted": {
			earlier: takeTwo,
			before:  func(srv *goldenServer) { overflowOne(srv); mountBoth(srv) },
			request: Request{Replace: true},
		},
		"replaced_though_reliable": {earlier: takeTwo, request: Request{Volumes: twoVolumes, Replace: true}},
		"not_replaced_not_taken_again": {
			earlier: takeTwo,
			before:  func(srv *goldenServer) { overflowOne(srv); srv.FailOn(errTest, "lvcreate") },
			request: Request{Replace: true},
		},
		"not_replaced_not_removed": {
			earlier: takeTwo,
			before:  func(srv *goldenServer) { overflowOne(srv); srv.FailOn(errTest, "lvremove") },
			request: Request{Replace: true},
		},
		"not_replaced_renamed": {
			earlier: takeTwo,
			before:  func(srv *goldenServer) { overflowOne(srv); srv.Rename("vg00/pccehr_s", "keep") },
			request: Request{Replace: true},
		},
	}
}

// points are mount points below a directory of the test.
var points = MountOptions{Point: "POINTS", Create: true}

func mountedCases() map[string]goldenCase {
	return map[string]goldenCase{
		"mounted_new":       {request: Request{State: Mounted, Volumes: twoVolumes, Mount: points}},
		"mounted_new_check": {request: Request{State: Mounted, Volumes: twoVolumes, Mount: points, Check: true}},
		"mounted": {
			earlier: takeTwo, request: Request{State: Mounted, Volumes: twoVolumes, Mount: points},
		},
		"mounted_check": {
			earlier: takeTwo, request: Request{State: Mounted, Mount: MountOptions{Create: true}, Check: true},
		},
		"mounted_without_volumes": {earlier: takeTwo, request: Request{State: Mounted, Mount: points}},
		"mounted_one_on_its_point": {
			earlier: []Request{{Volumes: volumesNamed("/dat")}},
			request: Request{State: Mounted, Mount: MountOptions{Point: "POINTS/one", Create: true, Options: "rw,nodev"}},
		},
		"mounted_with_blkid": {
			earlier: []Request{{Volumes: volumesNamed("vg00/shut")}},
			before:  func(srv *goldenServer) { srv.fstypes["/dev/vg00/shut_s"] = "ext4\n" },
			request: Request{State: Mounted, Mount: points},
		},
		"mounted_and_extended": {
			earlier: takeTwo, request: Request{State: Mounted, Size: "300m", Mount: points},
		},
		"mounted_and_extended_check": {
			earlier: takeTwo, request: Request{State: Mounted, Size: "300m", Mount: points, Check: true},
		},
		"mounted_already": {
			earlier: takeTwo, before: mountBoth, request: Request{State: Mounted, Mount: points},
		},
		"mounted_the_other": {
			earlier: takeTwo,
			before:  func(srv *goldenServer) { srv.mount("vg00/dat_s", srv.pointDir+"/dat", "xfs") },
			request: Request{State: Mounted, Mount: points},
		},
		"mounted_with_a_log": {
			before: logOnShut,
			request: Request{
				State: Mounted, Volumes: volumesNamed("/dat", "vg00/shut"), Mount: MountOptions{Point: "POINTS", Create: true},
			},
		},
	}
}

func notMountedCases() map[string]goldenCase {
	mountFails := func(srv *goldenServer) { srv.onCommand["mount -t ext4"] = func() error { return errTest } }
	return map[string]goldenCase{
		"not_mounted_new": {
			before: mountFails, request: Request{State: Mounted, Volumes: twoVolumes, Mount: points},
		},
		"not_mounted_new_and_not_removed": {
			before:  func(srv *goldenServer) { mountFails(srv); srv.FailOn(errTest, "lvremove") },
			request: Request{State: Mounted, Volumes: twoVolumes, Mount: points},
		},
		"not_mounted": {earlier: takeTwo, before: mountFails, request: Request{State: Mounted, Mount: points}},
		"not_mounted_but_extended": {
			earlier: takeTwo, before: mountFails, request: Request{State: Mounted, Size: "300m", Mount: points},
		},
		"not_mounted_new_no_points": {
			request: Request{State: Mounted, Volumes: twoVolumes, Mount: MountOptions{Point: "POINTS"}},
		},
		"not_mounted_new_no_points_check": {
			request: Request{State: Mounted, Volumes: twoVolumes, Mount: MountOptions{Point: "POINTS"}, Check: true},
		},
		"not_mounted_no_points": {earlier: takeTwo, request: Request{State: Mounted, Mount: MountOptions{Point: "POINTS"}}},
		"not_mounted_point_in_use": {
			earlier: takeTwo,
			before:  func(srv *goldenServer) { srv.mount("vg00/t2", srv.pointDir+"/dat", "xfs") },
			request: Request{State: Mounted, Mount: points, Check: true},
		},
		"not_mounted_point_in_use_spelt_otherwise": {
			before: func(srv *goldenServer) {
				srv.mount("vg00/t2", srv.pointDir+"/live", "xfs")
				_ = errors.Join(os.Mkdir(srv.pointDir+"/live", 0o755), os.Symlink("live", srv.pointDir+"/link"))
			},
			request: Request{
				State: Mounted, Volumes: volumesNamed("/dat"), Mount: MountOptions{Point: "POINTS/link/", Create: true},
			},
		},
		"not_mounted_one_point_for_two": {
			request: Request{
				State: Mounted, Mount: points,
				Volumes: []Volume{{Name: "/dat", Mountpoint: "/mnt/s"}, {Name: "/pccehr", Mountpoint: "/mnt/s/"}},
			},
		},
		"not_mounted_encrypted": {
			before: encryptShut, request: Request{State: Mounted, Volumes: volumesNamed("vg00/shut"), Mount: points},
		},
		"not_mounted_unknown_file_system": {
			earlier: []Request{{Volumes: volumesNamed("vg00/shut")}}, request: Request{State: Mounted, Mount: points},
		},
		"not_mounted_other_volumes": {earlier: takeTwo, request: Request{State: Mounted, Volumes: volumesNamed("/t1")}},
	}
}

func unmountedCases() map[string]goldenCase {
	return map[string]goldenCase{
		"unmounted":         {earlier: takeTwo, before: mountBoth, request: Request{State: Unmounted}},
		"unmounted_check":   {earlier: takeTwo, before: mountBoth, request: Request{State: Unmounted, Check: true}},
		"unmounted_already": {earlier: takeTwo, request: Request{State: Unmounted, Volumes: twoVolumes}},
		"not_unmounted_no_set": {
			earlier: []Request{{Set: "b", Volumes: volumesNamed("/dat")}, {Set: "a", Volumes: volumesNamed("/pccehr")}},
			request: Request{State: Unmounted},
		},
		"not_unmounted_other_volumes": {
			earlier: takeTwo, before: mountBoth, request: Request{State: Unmounted, Volumes: volumesNamed("/dat", "/t1")},
		},
	}
}

func removedCases() map[string]goldenCase {
	return map[string]goldenCase{
		"removed":       {earlier: takeTwo, request: Request{State: Absent}},
		"removed_check": {earlier: takeTwo, request: Request{State: Absent, Check: true}},
		"removed_thin": {
			earlier: []Request{{Volumes: volumesNamed("/t1", "/dat")}},
			request: Request{State: Absent, Volumes: volumesNamed("/t1", "/dat")},
		},
		"removed_mounted":       {earlier: takeTwo, before: mountBoth, request: Request{State: Absent}},
		"removed_mounted_check": {earlier: takeTwo, before: mountBoth, request: Request{State: Absent, Check: true}},
		"removed_incomplete":    {earlier: takeTwo, before: removeOne, request: Request{State: Absent}},
		"removed_overflowed":    {earlier: takeTwo, before: overflowOne, request: Request{State: Absent}},
		"absent_already":        {request: Request{State: Absent}},
		"absent_already_check": {
			earlier: []Request{{Set: "b", Volumes: volumesNamed("/dat")}, {Set: "a", Volumes: volumesNamed("/pccehr")}},
			request: Request{State: Absent, Check: true},
		},
	}
}

func notRemovedCases() map[string]goldenCase {
	absent := Request{State: Absent}
	return map[string]goldenCase{
		"not_removed_merging":       {earlier: takeTwo, before: mergeOne, request: absent},
		"not_removed_other_volumes": {earlier: takeTwo, request: Request{State: Absent, Volumes: volumesNamed("/t1")}},
		"not_removed_incomplete_other_volumes": {
			earlier: takeTwo, before: removeOne, request: Request{State: Absent, Volumes: volumesNamed("/t1")},
		},
		"not_removed_renamed": {
			earlier: takeTwo, before: func(srv *goldenServer) { srv.Rename("vg00/dat_s", "keep") }, request: absent,
		},
		"not_removed_snapshots_of_its_own": {
			earlier: []Request{{Volumes: volumesNamed("/t1", "/dat")}},
			before: func(srv *goldenServer) {
				srv.Make("vg00", lvmtest.Volume{Name: "mine", Origin: "t1_s", Size: 32 * mib, Kind: lvm.Snapshot})
			},
			request: Request{State: Absent, Check: true},
		},
		"not_removed_copied": {before: copySet, request: absent},
		"not_removed_command_fails": {
			earlier: takeTwo, before: func(srv *goldenServer) { srv.FailOn(errTest, "lvremove") }, request: absent,
		},
	}
}

func ownCases() map[string]goldenCase {
	restored := []Request{{Volumes: twoVolumes, Use: ForRestore}}
	return map[string]goldenCase{
		"own":       {own: true, request: Request{Volumes: twoVolumes, Use: ForBackup}},
		"own_check": {own: true, request: Request{Volumes: twoVolumes, Use: ForBackup, Check: true}},
		"own_for_restore": {
			own: true, before: logOnShut, request: Request{Volumes: volumesNamed("vg00/shut", "/dat"), Use: ForRestore},
		},
		"own_used_again": {own: true, earlier: restored, request: Request{Volumes: twoVolumes, Use: ForRestore}},
		"own_used_again_check": {
			own: true, earlier: restored, request: Request{Volumes: twoVolumes, Use: ForRestore, Check: true},
		},
	}
}

func notOwnCases() map[string]goldenCase {
	restored := []Request{{Volumes: twoVolumes, Use: ForRestore}}
	again := Request{Volumes: twoVolumes, Use: ForRestore}
	return map[string]goldenCase{
		"not_own_exists": {own: true, earlier: takeTwo, request: Request{Volumes: twoVolumes, Use: ForBackup}},
		"not_own_encrypted": {
			own: true, before: encryptShut, request: Request{Volumes: volumesNamed("/dat", "vg00/shut"), Use: ForBackup},
		},
		"not_own_command_fails": {
			own: true, before: func(srv *goldenServer) { srv.FailOn(errTest, "lvcreate") },
			request: Request{Volumes: twoVolumes, Use: ForBackup},
		},
		"not_own_overflowed": {own: true, earlier: restored, before: overflowOne, request: again},
		"not_own_merging":    {own: true, earlier: restored, before: mergeOne, request: again},
		"not_own_mounted":    {own: true, earlier: restored, before: mountBoth, request: again},
		"not_own_other_volumes": {
			own: true, earlier: restored, request: Request{Volumes: volumesNamed("/t1"), Use: ForRestore},
		},
		"not_own_last_merging": {
			own: true, earlier: restored, before: func(srv *goldenServer) { removeOne(srv); mergeOne(srv) }, request: again,
		},
	}
}

func (srv *goldenServer) noFstab() { fstabFile = "/none" }

// writeFstab gives the server an fstab until the end of the test.
func (srv *goldenServer) writeFstab(text string) {
	srv.t.Helper()
	fstabFile = filepath.Join(srv.t.TempDir(), "fstab")
	srv.t.Cleanup(srv.noFstab)
	if err := os.WriteFile(fstabFile, []byte(text), 0o600); err != nil {
		srv.t.Fatal(err)
	}
}

// fillGroup leaves 40 MiB free in vg00.
func fillGroup(srv *goldenServer) {
	group, _ := srv.report().Group("vg00")
	srv.Make("vg00", lvmtest.Volume{Name: "large", Size: group.Free - 40*mib})
}

// overflowOne fills a snapshot of the set s.
func overflowOne(srv *goldenServer) { srv.Fill("vg00/dat_s", 100) }

// removeOne removes a snapshot of the set s.
func removeOne(srv *goldenServer) {
	srv.Remove("vg00/pccehr_s")
}

// mergeOne begins to merge a snapshot of the set s.
func mergeOne(srv *goldenServer) {
	if err := srv.lvm.Merge(srv.t.Context(), "vg00/dat_s"); err != nil {
		srv.t.Fatal(err)
	}
}

// mountBoth mounts the set s of /dat and /pccehr. Before it is removed, it is unmounted.
func mountBoth(srv *goldenServer) {
	srv.mount("vg00/dat_s", srv.pointDir+"/dat", "xfs")
	srv.mount("vg00/pccehr_s", srv.pointDir+"/pccehr", "ext4")
	srv.onCommand["lvremove"] = func() error {
		srv.SetOpen("vg00/dat_s", 0)
		srv.SetOpen("vg00/pccehr_s", 0)
		srv.mounts = slices.DeleteFunc(srv.mounts, func(m filesystem.Mount) bool {
			return strings.HasPrefix(m.Point, srv.pointDir)
		})
		return nil
	}
}

// copySet makes more snapshots with the tags of the set s than it was taken of.
func copySet(srv *goldenServer) {
	srv.Make("vg00", memberSnapshot("dat_s", "dat", "s", "1", 2))
	srv.Make("vg00", memberSnapshot("pccehr_s", "pccehr", "s", "1", 2))
	srv.Make("vg00", memberSnapshot("shut_s", "shut", "s", "1", 2))
}

// encryptShut has a crypt device lie on vg00/shut.
func encryptShut(srv *goldenServer) {
	shut, _ := srv.report().ByPath("vg00/shut")
	files := map[string]string{"dm/uuid": "CRYPT-LUKS2-x", "dm/name": "opened"}
	stackedOn(srv.t, srv.sysfsDir, "253:91", files, devOf(shut).String())
}

// logOnShut has the file system of /dat keep its log on vg00/shut.
func logOnShut(srv *goldenServer) {
	shut, _ := srv.report().ByPath("vg00/shut")
	for i := range srv.mounts {
		if srv.mounts[i].Point == "/dat" {
			srv.mounts[i].Super = "rw,logdev=/dev/vg00/shut"
		}
	}
	srv.changeView = func(view *View) {
		device := view.Device
		view.Device = func(path string) (filesystem.Dev, error) {
			if path == shut.Path {
				return devOf(shut), nil
			}
			return device(path)
		}
		view.Needs = func(path string) (filesystem.Needs, error) {
			return filesystem.Needs{Log: strings.HasSuffix(path, "/dat")}, nil
		}
	}
}
