package lvm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

func TestCommandLines(t *testing.T) {
	ctx := context.Background()
	r := &fixedRunner{out: command.Output{Stdout: "  Logical volume \"a\" successfully removed.\n" +
		"  Logical volume \"b\" successfully removed\n"}}
	l := New(r)
	thick := SnapshotSpec{VG: "vg", Origin: "dat", Name: "dat_snap", Extents: 25, Tags: []string{"rewind:set=snap", "b"}}
	thin := SnapshotSpec{VG: "vg", Origin: "dat", Name: "dat_snap", Tags: []string{"a"}}
	for _, err := range []error{
		l.CreateSnapshot(ctx, thick), l.CreateSnapshot(ctx, thin), l.Extend(ctx, "vg/s", 1000),
		l.Remove(ctx, &Volume{VG: "vg", Name: "a", UUID: "A-1"}, &Volume{VG: "vg", Name: "b", UUID: "B-2"}),
		l.AddTags(ctx, []string{"a", "b"}, "vg/x"), l.DelTags(ctx, []string{"a"}, "vg/x", "vg/y"),
		l.Merge(ctx, "vg/a", "vh/b"), l.Refresh(ctx, "vg/o"), l.Poll(ctx, "vg/o"), l.Activate(ctx, "vg/o"),
		l.Remove(ctx), l.Merge(ctx), l.AddTags(ctx, nil, "vg/x"), // nothing to do: no command
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"lvm lvcreate --config CONFIG --yes --snapshot --name dat_snap --extents 25 --chunksize 4096b " +
			"--addtag rewind:set=snap --addtag b -- vg/dat",
		"lvm lvcreate --config CONFIG --yes --snapshot --name dat_snap --setactivationskip n --addtag a -- vg/dat",
		"lvm lvextend --config CONFIG --yes --size 1024b -- vg/s",
		"lvm lvremove --config CONFIG --yes --select (lv_uuid=\"A-1\" || lv_uuid=\"B-2\") && " +
			"lv_role!={thickorigin} -- vg/a vg/b",
		"lvm lvchange --config CONFIG --addtag a --addtag b -- vg/x",
		"lvm lvchange --config CONFIG --deltag a -- vg/x vg/y",
		"lvm lvconvert --config CONFIG global/use_lvmpolld=0 --yes --merge --background --interval +60 -- vg/a vh/b",
		"lvm lvchange --config CONFIG --refresh -- vg/o",
		"lvm lvchange --config CONFIG --poll y -- vg/o",
		"lvm lvchange --config CONFIG --activate y --ignoreactivationskip -- vg/o",
	}
	for i := range want {
		want[i] = strings.Replace(want[i], "CONFIG", config, 1)
	}
	if diff := cmp.Diff(want, r.commands); diff != "" {
		t.Error(diff)
	}
}

// LVM would take the name of a group for all volumes in it.
func TestMalformedVolumeNamesAreRejected(t *testing.T) {
	r := &fixedRunner{}
	for _, name := range []string{"vg", "", "@tag", "vg/", "vg/a/b", "vg/--force"} {
		if err := New(r).Refresh(context.Background(), "vg/a", name); !errors.Is(err, fault.BadArguments) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if len(r.commands) > 0 {
		t.Errorf("ran %q", r.commands)
	}
}

// Every volume has a UUID, and a selection must not come to mean another.
func TestVolumeWithoutUUIDIsNotRemoved(t *testing.T) {
	r := &fixedRunner{}
	for _, uuid := range []string{"", `a" || lv_name="b`} {
		err := New(r).Remove(context.Background(), &Volume{VG: "vg", Name: "a", UUID: uuid})
		if !errors.Is(err, fault.Internal) || len(r.commands) > 0 {
			t.Errorf("%q: %v, ran %q", uuid, err, r.commands)
		}
	}
}

// A copy of a volume group has volumes of the same UUIDs. What was removed is not there under another name.
func TestRemovedVolumeIsNotLookedForInOtherGroup(t *testing.T) {
	r := &fixedRunner{out: command.Output{Stdout: readTestdata(t, "d12/thick.json")}} // as if lvremove had log/silent
	for _, g := range decodeFile(t, "d12/thick.json").Groups {
		for _, v := range g.Volumes {
			removed := Volume{VG: "original", Name: v.Name, UUID: v.UUID}
			if err := New(r).Remove(t.Context(), &removed); err != nil {
				t.Errorf("%s was taken for %s: %v", v.FullName(), removed.FullName(), err)
			}
		}
	}
}

// The texts are what LVM 2.03.16 and 2.03.31 printed.
func TestFailedCommandGetsCodeOfLVMsMessage(t *testing.T) {
	for stderr, want := range map[string]fault.Code{
		"  Logical Volume \"dat_snap\" already exists in volume group \"vg00\"\n":           fault.Exists,
		"  Volume group \"vg01\" has insufficient free space (36 extents): 400 required.\n": fault.NoSpace,
		"  Snapshot origin LV nosuch not found in Volume group vg00.\n":                     fault.NotFound,
		"  Volume group \"vgno\" not found\n" +
			"  Cannot process volume group vgno\n": fault.NotFound,
		"  Failed to find logical volume \"vg00/nope\"\n":         fault.NotFound,
		"  Logical volume none not found in volume group vg00.\n": fault.NotFound,
		"device-mapper: resume ioctl on vg00-nope  failed: No such device or address\n" +
			"Command failed.\n": fault.NotFound,
		"  Logical volume vg00/pccehr contains a filesystem in use.\n":                   fault.Busy,
		"  Snapshots of an origin that has a merging snapshot are not supported.\n":      fault.Merging,
		"  Can't remove merging snapshot logical volume vg00/dat_snap.\n":                fault.Merging,
		"  Command on LV vg00/s is invalid on LV with properties: lv_is_merging_cow .\n": fault.Merging,
		"  Unable to merge invalidated snapshot LV vg00/inv.\n":                          fault.SnapshotInvalid,
		"  Snapshots of snapshots are not supported.\n":                                  fault.Unsupported,
		"  Cannot change VG vg00 while PVs are missing.\n" +
			"  See vgreduce --removemissing and vgextend --restoremissing.\n": fault.Unsupported,
		"  Volume group vg01 is exported\n":                                            fault.Unsupported,
		"  Cannot access VG vg01 with system ID other with unknown local system ID.\n": fault.Unsupported,
		"  device-mapper: suspend ioctl on  (253:1) failed: Device or resource busy\n" +
			"  Unable to suspend vg00-x (253:1)\n": fault.Busy,
		"  device-mapper: reload ioctl on  (253:9) failed: No data available\n" +
			"  Failed to activate thin tb_bad.\n": fault.PoolDamaged,
		"  Cannot create new thin volume, free space in thin pool vg01/pool reached threshold.\n": fault.NoSpace,
		"  WARNING: Thin pool vg01/pool has unexpected transaction id 10, expecting 12 or lower by 1.\n" +
			"  Cannot create new thin volume, free space in thin pool vg01/pool reached threshold.\n": fault.PoolDamaged,
		"  Something new.\n": fault.CommandFailed,
	} {
		cause := &command.Error{Argv: []string{"lvm", "lvcreate"}, Code: 5, Stderr: stderr, Err: errors.New("exit status 5")}
		spec := SnapshotSpec{VG: "vg", Origin: "o", Name: "s"}
		err := New(&fixedRunner{err: cause}).CreateSnapshot(context.Background(), spec)
		f := fault.Of(err)
		if f.Code != want || !errors.Is(err, error(cause)) {
			t.Errorf("%q: %s, want %s", stderr, f.Code, want)
		}
		if f.Facts["stderr"] == nil || f.Facts["rc"] != 5 {
			t.Errorf("%q: facts %v", stderr, f.Facts)
		}
	}
}

func TestFailedMergeIsMergeFailed(t *testing.T) {
	cause := &command.Error{Argv: []string{"lvm"}, Code: 5, Stderr: "  Unable to merge invalidated snapshot LV vg/a.\n",
		Err: errors.New("exit status 5")}
	f := fault.Of(New(&fixedRunner{err: cause}).Merge(context.Background(), "vg/a", "vg/b"))
	if f.Code != fault.MergeFailed || f.Hint == "" || f.Facts["stderr"] == nil {
		t.Errorf("%+v", f)
	}
	killed := &command.Error{Argv: []string{"lvm"}, Code: -1, Err: context.DeadlineExceeded}
	if f := fault.Of(New(&fixedRunner{err: killed}).Merge(context.Background(), "vg/a")); f.Code != fault.Timeout {
		t.Errorf("%+v", f)
	}
}
