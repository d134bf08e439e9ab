package lvm

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readTestdata(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseStatus(t *testing.T) {
	status, err := parseStatus(readTestdata(t, "d12-status.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]SnapshotStatus{
		"vg00-dat_snap": {Used: 308416, Total: 524288, Metadata: 1216},
		"vg00-pccehr":   {Used: 152160, Total: 524288, Metadata: 600, Merging: true},
		"vg00-small":    {Invalid: true},
	} {
		got, ok := status[device][0].Snapshot()
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("%s (%v): %s", device, ok, diff)
		}
	}
	if _, ok := status["vg00-dat"][0].Snapshot(); ok || status["vg00-dat"][0].Type != "snapshot-origin" {
		t.Errorf("an origin was decoded as a snapshot: %+v", status["vg00-dat"])
	}
	if targets, exists := status["vg00-fr1"]; !exists || len(targets) != 0 {
		t.Errorf("a device without a table: %v, %v", targets, exists)
	}
	pool := &Volume{DMName: "vg01-pool"}
	for id, damaged := range map[int64]bool{10: false, 11: false, 12: true, 9: true} {
		pool.TransactionID = id
		if got := PoolDamaged(pool, status); got != damaged {
			t.Errorf("kernel at 10, metadata at %d: damaged %v", id, got)
		}
	}
}

func TestSnapshotStatusWithoutFigures(t *testing.T) {
	for args, want := range map[string]SnapshotStatus{
		"Invalid": {Invalid: true}, "Overflow": {Overflow: true}, "Merge failed": {MergeFailed: true},
		"Unknown": {Unknown: true},
	} {
		got, ok := Target{Type: "snapshot", Args: strings.Fields(args)}.Snapshot()
		if !ok || got != want {
			t.Errorf("%s: %+v, %v", args, got, ok)
		}
	}
	for _, args := range []string{"", "1", "1/2", "x/2 3", "1/x 3", "1/2 x", "-1/2 3", "1/2 3 4"} {
		if got, ok := (Target{Type: "snapshot", Args: strings.Fields(args)}).Snapshot(); ok {
			t.Errorf("%q was read: %+v", args, got)
		}
	}
	merged := SnapshotStatus{Merging: true, Used: 16, Total: 524288, Metadata: 16}
	if !merged.Merged() || (SnapshotStatus{Merging: true}).Merged() ||
		(SnapshotStatus{Used: 16, Total: 32, Metadata: 16}).Merged() {
		t.Error("a merge has ended when only metadata is left, and only then")
	}
}

func TestParseInfo(t *testing.T) {
	info, err := parseInfo(readTestdata(t, "d12-info.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := Info{UUID: "LVM-BVEheQp6M3xVvsVdRaWLnxLUoFR3BKlruwIOvhxIQt614i1i8BgIKHH8no0w7kvp", Major: 253, Minor: 2,
		Suspended: true}
	if diff := cmp.Diff(want, info["vg00-dat"]); diff != "" {
		t.Error(diff)
	}
	if got := info["vg00-pccehr-real"]; got.Open != 2 || got.Suspended {
		t.Errorf("%+v", got)
	}
}

func TestNoDevicesIsNoError(t *testing.T) {
	status, err := parseStatus("No devices found\n")
	if err != nil || len(status) != 0 {
		t.Errorf("%v, %v", status, err)
	}
	info, err := parseInfo("No devices found\n")
	if err != nil || len(info) != 0 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestStatusOfNamesWithColons(t *testing.T) {
	status, err := parseStatus("docker-253:0-7-pool: 0 8 linear 7:0 0\nbackup:1: \nplain: 0 8 zero\n")
	if err != nil || len(status["docker-253:0-7-pool"]) != 1 || len(status["plain"]) != 1 || len(status) != 3 {
		t.Errorf("%v, %v", status, err)
	}
	if targets, ok := status["backup:1"]; !ok || len(targets) != 0 {
		t.Errorf("a device without a table: %v", status)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add(readTestdata(f, "d12-status.txt"))
	f.Add("a: 0 1 snapshot 1/2 3\nb: \n: 0 1 x\n")
	f.Fuzz(func(t *testing.T, s string) {
		status, err := parseStatus(s)
		if err != nil {
			return
		}
		for name, targets := range status {
			for _, target := range targets {
				if _, ok := target.Snapshot(); name == "" || target.Type == "" && ok {
					t.Errorf("%q: %+v", name, target)
				}
			}
		}
	})
}

func FuzzInfo(f *testing.F) {
	f.Add(readTestdata(f, "d12-info.txt"))
	f.Fuzz(func(t *testing.T, s string) {
		info, err := parseInfo(s)
		if err != nil {
			return
		}
		for name, i := range info {
			if name == "" || i.Major < 0 || i.Minor < 0 || i.Open < 0 {
				t.Errorf("%q: %+v", name, i)
			}
		}
	})
}

func TestCryptOptions(t *testing.T) {
	const plain = "aes-xts-plain64 :64:logon:cryptsetup:a-d0 0 253:3 32768"
	for args, want := range map[string][]string{
		plain:                       nil,
		plain + " 1 allow_discards": {"allow_discards"},
		plain + " 3 same_cpu_crypt no_read_workqueue sector_size:4096": {
			"same_cpu_crypt", "no_read_workqueue", "sector_size:4096",
		},
		plain + " 3 allow_discards":    nil, // cut off
		plain + " many allow_discards": nil,
	} {
		got := Target{Type: "crypt", Args: strings.Fields(args)}.cryptOptions()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}
