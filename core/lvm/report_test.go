package lvm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// releases are the directories in testdata of what LVM printed, by release of Debian: d12 has LVM 2.03.16, d13 has
// 2.03.31.
var releases = []string{"d12", "d13"}

func decodeFile(t testing.TB, file string) *Report {
	t.Helper()
	r, err := decode(readTestdata(t, file))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return r
}

// summary describes a volume in one line: its name, its kind, its state, and whatever else is special about it.
func summary(v *Volume) string {
	line := fmt.Sprintf("%s %s %s", v.FullName(), v.Kind, v.State)
	for _, mark := range []struct {
		set  bool
		name string
	}{
		{v.Health != Healthy, string(v.Health)}, {v.IsSnapshot(), "of " + v.Origin}, {v.IsOrigin, "origin"},
		{v.Open, "open"}, {v.Hidden, "hidden"}, {v.Private, "private"}, {v.Merging, "merging"},
		{v.SkipActivation, "skipped"}, {v.Lost(), "lost"},
	} {
		if mark.set {
			line += " " + mark.name
		}
	}
	return line
}

func TestDecodeReports(t *testing.T) {
	for name, want := range map[string][]string{
		"thick": {
			"vg00/dat linear active origin",
			"vg00/dat_snap snapshot active of dat",
			"vg00/pccehr linear active origin",
			"vg00/pccehr_snap snapshot active of pccehr",
			"vg00/small snapshot invalid_suspended of pccehr lost",
		},
		"merging": {
			"vg00/dat linear merging origin open merging",
			"vg00/dat_snap snapshot merging of dat hidden merging",
			"vg00/pccehr linear merging origin merging",
			"vg00/pccehr_snap snapshot merging of pccehr hidden merging",
			"vg00/small snapshot invalid of pccehr lost",
		},
		"thin": {
			"vg01/lvol0_pmspare linear inactive hidden private",
			"vg01/pool thinpool active open private",
			"vg01/pool_tdata linear active open hidden private",
			"vg01/pool_tmeta linear active open hidden private",
			"vg01/ta thin merging origin open merging",
			"vg01/ta_k thin inactive of ta skipped",
			"vg01/ta_snap thin merging of ta hidden merging",
			"vg01/ta_two thin active of ta",
			"vg01/tb thin active",
		},
		"kinds": {
			"vg00/ca cache active",
			"vg00/ca_corig linear active origin open hidden private",
			"vg00/cp_cpool cachepool inactive hidden private",
			"vg00/cp_cpool_cdata linear active open hidden private",
			"vg00/cp_cpool_cmeta linear active open hidden private",
			"vg00/er other active",
			"vg00/lvol0_pmspare linear inactive hidden private",
			"vg00/mi mirror active",
			"vg00/mi_mimage_0 linear active open hidden private",
			"vg00/mi_mimage_1 linear active open hidden private",
			"vg00/mi_mlog linear active open hidden private",
			"vg00/r1 raid active origin",
			"vg00/r1_rimage_0 linear active open hidden private",
			"vg00/r1_rimage_1 linear active open hidden private",
			"vg00/r1_rmeta_0 linear active open hidden private",
			"vg00/r1_rmeta_1 linear active open hidden private",
			"vg00/r1s snapshot active of r1",
			"vg00/st striped active",
			"vg00/wc cache active",
			"vg00/wc_wcorig linear active origin open hidden private",
			"vg00/wcd_cvol cache active open hidden private",
			"vg00/we-ird.name+x linear inactive",
		},
		"partial": {
			"vg00/a linear inactive", "vg00/b linear inactive partial", "vg00/lvol0_pmspare linear inactive hidden private",
			"vg01/c linear inactive",
		},
		"foreign": {"vg00/a linear active", "vg00/b linear active", "vg00/lvol0_pmspare linear inactive hidden private"},
		"nogroup": nil,
		"nothing": nil,
	} {
		for _, release := range releases {
			r := decodeFile(t, release+"/"+name+".json")
			var got []string
			for _, v := range r.volumesWhere(func(*Volume) bool { return true }) {
				got = append(got, summary(v))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s on %s:\n%s", name, release, diff)
			}
		}
	}
}

func TestDecodeAllFieldsOfASnapshot(t *testing.T) {
	for _, release := range releases {
		r := decodeFile(t, release+"/thick.json")
		v, err := r.Need("vg00", "dat_snap")
		if err != nil {
			t.Fatal(err)
		}
		percent := 78.43
		origin, _ := r.Volume("vg00", "dat")
		want := &Volume{
			VG: "vg00", Name: "dat_snap", UUID: v.UUID, Path: "/dev/vg00/dat_snap", DMName: "vg00-dat_snap",
			Origin: "dat", OriginUUID: origin.UUID, Kind: Snapshot, State: Active, Health: Healthy,
			Size: 256 * mib, OriginSize: gib, COWSize: 256 * mib, COWUsed: 210533928, ChunkSize: 4096,
			Active: true, Major: 253, Minor: v.Minor, SnapPercent: &percent, DataPercent: &percent, Created: v.Created,
			Tags: []string{"rewind:count=2", "rewind:set=snap"}, Devices: []string{"/dev/loop0"},
		}
		if diff := cmp.Diff(want, v); diff != "" {
			t.Errorf("%s: %s", release, diff)
		}
		if v.Created.Before(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: created %s", release, v.Created)
		}
		if got := r.Snapshots(origin); len(got) != 1 || got[0] != v {
			t.Errorf("%s: snapshots of dat: %v", release, got)
		}
		if set, ok := v.Tag("rewind:set="); !ok || set != "snap" || len(r.ByTag("rewind:count=2")) != 1 {
			t.Errorf("%s: tags: %q", release, set)
		}
		if _, ok := v.Tag("rewind:id="); ok || len(r.ByTag("rewind")) != 0 {
			t.Errorf("%s: a tag that is not there was found", release)
		}
	}
}

// Space on a disk that is being emptied is not free, and a volume that pvmove moves is locked.
func TestDecodeDiskThatIsEmptied(t *testing.T) {
	for _, release := range releases {
		text := readTestdata(t, release+"/kinds.json")
		all, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		emptied := regexp.MustCompile(`("pv_name":"/dev/loop0".*"pv_allocatable":)"1"`).ReplaceAllString(text, `$1"0"`)
		emptied = strings.ReplaceAll(emptied, `"lv_attr":"-wi-`, `"lv_attr":"-wI-`)
		some, err := decode(emptied)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := all.Group("vg00")
		after, _ := some.Group("vg00")
		if after.Free != before.PVs[1].Free || before.Free != before.PVs[0].Free+before.PVs[1].Free {
			t.Errorf("%s: %d bytes are free, then %d", release, before.Free, after.Free)
		}
		locked := func(r *Report) (n int) {
			for _, g := range r.Groups {
				for _, v := range g.Volumes {
					if v.Locked {
						n++
					}
				}
			}
			return n
		}
		if locked(all) != 0 || locked(some) == 0 {
			t.Errorf("%s: %d volumes are locked, then %d", release, locked(all), locked(some))
		}
	}
}

func TestDecodeGroups(t *testing.T) {
	for _, release := range releases {
		r := decodeFile(t, release+"/partial.json")
		vg00, _ := r.Group("vg00")
		vg01, _ := r.Group("vg01")
		if !vg00.Partial || vg00.Exported || vg00.ReadOnly || vg00.ExtentSize != 4*mib || !vg00.PVs[1].Missing ||
			vg00.PVs[1].Device != "[unknown]" {
			t.Errorf("%s: %+v", release, vg00)
		}
		if !vg01.Exported || vg01.Partial || vg01.Shared || vg01.Size <= vg01.Free {
			t.Errorf("%s: %+v", release, vg01)
		}
		if _, ok := decodeFile(t, release+"/foreign.json").Group("vg01"); ok {
			t.Errorf("%s: another host's group is reported", release)
		}
	}
}

// While a merge runs LVM gives the snapshot its origin's device numbers.
func TestByDeviceReturnsTheOriginWhileMerging(t *testing.T) {
	for _, release := range releases {
		r := decodeFile(t, release+"/merging.json")
		origin, _ := r.Volume("vg00", "pccehr")
		snapshot, _ := r.Volume("vg00", "pccehr_snap")
		if origin.Minor != snapshot.Minor {
			t.Errorf("%s: minors %d and %d: LVM does not report the origin's for the snapshot", release, origin.Minor,
				snapshot.Minor)
		}
		if v, ok := r.ByDevice(origin.Major, origin.Minor); !ok || v != origin {
			t.Errorf("%s: %+v", release, v)
		}
		if v, ok := r.ByPath("/dev/mapper/vg00-pccehr"); !ok || v != origin {
			t.Errorf("%s: by path: %+v", release, v)
		}
		if _, ok := r.ByDevice(-1, -1); ok {
			t.Errorf("%s: found a device that does not exist", release)
		}
	}
}

func TestNeedNamesWhatExists(t *testing.T) {
	r := decodeFile(t, "d12/thick.json")
	for _, tt := range []struct{ vg, hint string }{{"vg00", "dat, dat_snap, pccehr"}, {"vg7", "vg00, vg01"}} {
		_, err := r.Need(tt.vg, "dta")
		if f := fault.Of(err); f.Code != fault.NotFound || !strings.Contains(f.Hint, tt.hint) {
			t.Errorf("%s/dta: %v, hint %q", tt.vg, err, f.Hint)
		}
	}
}

// Every letter in lvs(8) has a State or a Health of its own, and a volume with any other letter is bad.
func TestParseAttributes(t *testing.T) {
	for letter, want := range map[string]struct {
		State
		bad bool
	}{
		"a": {Active, false}, "-": {Inactive, false}, "h": {Historical, true}, "s": {Suspended, true},
		"I": {Invalid, true}, "S": {InvalidSuspended, true}, "m": {MergeFailed, true}, "M": {MergeFailedSuspended, true},
		"d": {MappedWithoutTables, true}, "i": {MappedWithInactiveTable, true}, "c": {CheckNeeded, true},
		"C": {CheckNeededSuspended, true}, "X": {Unknown, true}, "?": {Unknown, true},
	} {
		state, health := parseAttributes("-wi-" + letter + "-----")
		v := Volume{State: state, Health: health}
		if bad, why := v.Bad(); state != want.State || bad != want.bad || bad == (why == "") {
			t.Errorf("%s: %s, bad %v: %s", letter, state, bad, why)
		}
	}
	for letter, bad := range map[string]bool{
		"-": false, "r": false, "m": false, "w": false, "s": false, "R": false,
		"p": true, "F": true, "D": true, "M": true, "E": true, "X": true, "?": true,
	} {
		state, health := parseAttributes("-wi-a---" + letter + "-")
		if got, _ := (&Volume{State: state, Health: health}).Bad(); got != bad {
			t.Errorf("health %s is %s: bad %v", letter, health, got)
		}
	}
	if state, health := parseAttributes(""); state != Unknown || health != UnknownHealth {
		t.Errorf("without attributes: %s, %s", state, health)
	}
}

func TestDecodeRejectsMalformedReports(t *testing.T) {
	good := readTestdata(t, "d12/thick.json")
	for name, text := range map[string]string{
		"empty":                     "",
		"text only":                 "  WARNING: nothing here\n",
		"cut off":                   good[:len(good)/2],
		"a column missing":          strings.Replace(good, `"lv_attr"`, `"x"`, 1),
		"a size that is none":       strings.Replace(good, `"lv_size":"1073741824"`, `"lv_size":"1,00g"`, 1),
		"a negative size":           strings.Replace(good, `"lv_size":"1073741824"`, `"lv_size":"-1"`, 1),
		"a localised percentage":    strings.Replace(good, `"snap_percent":"78.43"`, `"snap_percent":"78,43"`, 1),
		"a percentage beyond":       strings.Replace(good, `"snap_percent":"78.43"`, `"snap_percent":"178.43"`, 1),
		"a device number":           strings.Replace(good, `"lv_kernel_minor":"4"`, `"lv_kernel_minor":"four"`, 1),
		"a list in place of a text": strings.Replace(good, `"lv_tags":""`, `"lv_tags":[]`, 1),
	} {
		if text == good {
			t.Errorf("%s: nothing was replaced", name)
		}
		if _, err := decode(text); !errors.Is(err, fault.CommandFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeSkipsMessagesAroundTheJSON(t *testing.T) {
	r, err := decode("  WARNING: a {brace} in a message\n\n" + readTestdata(t, "d12/thick.json") + "trailing\n")
	if err != nil || len(r.Groups) != 2 {
		t.Errorf("%v, %v", r, err)
	}
}

// fixedRunner is a Runner that answers every command with the same output and error.
type fixedRunner struct {
	out      command.Output
	err      error
	commands []string
}

func (r *fixedRunner) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	r.commands = append(r.commands, strings.Join(c.Argv, " "))
	return r.out, r.err
}

func TestReportReturnsLVMsWarnings(t *testing.T) {
	stderr := "  WARNING: VG vg00 is missing PV x.\n"
	failed := &command.Error{Argv: []string{"lvm"}, Code: 5, Stderr: stderr, Err: errors.New("exit status 5")}
	for name, err := range map[string]error{"exit 0": nil, "exit 5": failed} {
		out := command.Output{Stdout: readTestdata(t, "d12/partial.json"), Stderr: stderr}
		r, err := New(&fixedRunner{out: out, err: err}).Report(context.Background())
		if err != nil || len(r.Groups) != 2 || !slices.Equal(r.Warnings, []string{"WARNING: VG vg00 is missing PV x."}) {
			t.Errorf("%s: %v, %v", name, r, err)
			continue
		}
		if _, err := r.Need("vg00", "nosuch"); fault.Of(err).Facts["warnings"] == nil {
			t.Errorf("%s: the warnings are lost: %v", name, err)
		}
	}
	if _, err := New(&fixedRunner{err: failed}).Report(context.Background()); !errors.Is(err, failed) {
		t.Errorf("without a report: %v", err)
	}
	timeout := &command.Error{Argv: []string{"lvm"}, Code: -1, Err: context.DeadlineExceeded}
	out := command.Output{Stdout: readTestdata(t, "d12/partial.json")}
	_, err := New(&fixedRunner{out: out, err: timeout}).Report(context.Background())
	if fault.Of(err).Code != fault.Timeout {
		t.Errorf("killed at its limit: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	// Only small inputs: with large ones the fuzzer spends its time on making them smaller.
	for _, name := range []string{"one-volume", "d13/nogroup", "d13/nothing"} {
		f.Add(readTestdata(f, name+".json"))
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := decode(s)
		if err != nil {
			return
		}
		for _, v := range r.volumesWhere(func(*Volume) bool { return true }) {
			if v.Size < 0 || v.COWUsed < 0 || v.COWUsed > v.COWSize || v.State == "" || v.Health == "" || v.Kind == "" {
				t.Errorf("%+v", v)
			}
		}
	})
}
