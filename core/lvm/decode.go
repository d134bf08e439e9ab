package lvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// row is one line of a report: LVM's JSON has only strings as values.
type row map[string]string

// part is what fullreport prints for one volume group. PVs without a group have
// a part of their own, without vg.
type part struct {
	VG  []row `json:"vg"`
	PV  []row `json:"pv"`
	LV  []row `json:"lv"`
	Seg []row `json:"seg"`
}

// decode reads fullreport's JSON. Lines may stand before it: some of LVM's
// messages go to standard output.
func decode(stdout string) (*Report, error) {
	parts, err := decodeParts(stdout)
	if err != nil {
		return nil, err
	}
	report := new(Report)
	for _, p := range parts {
		if len(p.VG) == 0 {
			continue
		}
		g, err := p.group()
		if err != nil {
			return nil, unreadable(stdout, err)
		}
		report.Groups = append(report.Groups, g)
	}
	sort.Slice(report.Groups, func(i, j int) bool { return report.Groups[i].Name < report.Groups[j].Name })
	return report, nil
}

func decodeParts(stdout string) ([]part, error) {
	start := jsonStart(stdout)
	if start < 0 {
		return nil, unreadable(stdout, errors.New("no JSON in it"))
	}
	var printed struct {
		Report []part `json:"report"`
	}
	if err := json.NewDecoder(strings.NewReader(stdout[start:])).Decode(&printed); err != nil {
		return nil, unreadable(stdout, err)
	}
	return printed.Report, nil
}

// jsonStart returns where the first line that opens an object begins, or -1.
func jsonStart(stdout string) int {
	offset := 0
	for line := range strings.Lines(stdout) {
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), "{") {
			return offset
		}
		offset += len(line)
	}
	return -1
}

func unreadable(stdout string, err error) error {
	const enough = 400
	return fault.New(fault.CommandFailed, "LVM's report cannot be read: %w", err).
		With("stdout", stdout[:min(len(stdout), enough)])
}

func (p part) group() (Group, error) {
	f := reader{row: p.VG[0]}
	g := Group{
		Name: f.text("vg_name"), UUID: f.text("vg_uuid"),
		ExtentSize: f.number("vg_extent_size"), Size: f.number("vg_size"), Free: f.number("vg_free"),
		Partial: f.yes("vg_partial"), Shared: f.yes("vg_shared"), Clustered: f.yes("vg_clustered"),
		Exported: f.yes("vg_exported"), ReadOnly: f.text("vg_permissions") != "writeable",
		LockType: f.text("vg_lock_type"),
	}
	if f.err != nil {
		return g, f.err
	}
	for _, r := range p.PV {
		f := reader{row: r}
		g.PVs = append(g.PVs, PV{
			Device: f.text("pv_name"), UUID: f.text("pv_uuid"),
			Size: f.number("pv_size"), Free: f.number("pv_free"), Missing: f.yes("pv_missing"),
		})
		if f.err != nil {
			return g, f.err
		}
	}
	for _, r := range p.LV {
		v, err := volume(g.Name, r)
		if err != nil {
			return g, err
		}
		if err := v.addSegments(p.Seg); err != nil {
			return g, err
		}
		g.Volumes = append(g.Volumes, v)
	}
	return g, nil
}

func volume(vg string, r row) (Volume, error) {
	f := reader{row: r}
	name := f.text("lv_name")
	layout, role, attr := f.list("lv_layout"), f.list("lv_role"), f.text("lv_attr")
	v := Volume{
		VG: vg, Name: strings.Trim(name, "[]"), Hidden: strings.HasPrefix(name, "["),
		UUID: f.text("lv_uuid"), Path: f.text("lv_path"),
		DMName: strings.TrimPrefix(f.text("lv_dm_path"), "/dev/mapper/"),
		Origin: strings.Trim(f.text("origin"), "[]"), OriginUUID: f.text("origin_uuid"),
		Pool: strings.Trim(f.text("pool_lv"), "[]"), Kind: kindOf(layout, role),
		Size: f.number("lv_size"),
		Open: f.yes("lv_device_open"), Suspended: f.yes("lv_suspended"),
		Historical: f.yes("lv_historical"), IsOrigin: has(role, "origin"),
		IsExternalOrigin: has(role, "externalorigin"), Private: has(role, "private"),
		Merging: f.yes("lv_merging") || mergingOrigin(attr), MergeFailed: f.yes("lv_merge_failed"),
		SnapshotInvalid: f.yes("lv_snapshot_invalid"), SkipActivation: f.yes("lv_skip_activation"),
		Major: f.device("lv_kernel_major"), Minor: f.device("lv_kernel_minor"),
		DataPercent: f.percent("data_percent"), MetadataPercent: f.percent("metadata_percent"),
		Created: f.time("lv_time"), Tags: f.list("lv_tags"),
		ReadOnly: strings.HasPrefix(f.text("lv_permissions"), "read-only"),
	}
	v.Active = v.Major >= 0
	v.State, v.Health = attributes(attr)
	v.settleState()
	v.measureCOW(&f)
	return v, f.err
}

// mergingOrigin knows the origin of a merge by lv_attr: LVM sets lv_merging for
// a thick one, but not for a thin one.
func mergingOrigin(attr string) bool {
	return strings.HasPrefix(attr, "O")
}

// settleState makes the state agree with LVM's named fields, which know of an
// overflow also while the fifth attribute cannot show it, and names a merge.
func (v *Volume) settleState() {
	switch {
	case v.SnapshotInvalid && v.Suspended:
		v.State = InvalidSuspended
	case v.SnapshotInvalid:
		v.State = Invalid
	case v.MergeFailed && v.Suspended:
		v.State = MergeFailedSuspended
	case v.MergeFailed:
		v.State = MergeFailed
	case v.Merging && (v.State == Active || v.State == Inactive):
		v.State = Merging
	}
}

// measureCOW takes the columns that LVM also fills, with other meanings, for
// origins, pools and thin volumes.
func (v *Volume) measureCOW(f *reader) {
	originSize, percent := f.number("origin_size"), f.percent("snap_percent")
	if v.Kind != Snapshot {
		return
	}
	v.OriginSize, v.SnapPercent, v.COWSize = originSize, percent, v.Size
	if v.SnapPercent != nil {
		v.COWUsed = int64(float64(v.Size) * *v.SnapPercent / 100)
	}
}

// addSegments takes over what LVM reports by segment: the devices of all, and
// what is the same in all.
func (v *Volume) addSegments(segments []row) error {
	for _, r := range segments {
		f := reader{row: r}
		if f.text("lv_uuid") != v.UUID {
			continue
		}
		v.ChunkSize = max(v.ChunkSize, f.number("chunk_size"))
		if id := f.number("transaction_id"); v.Kind == ThinPool {
			v.TransactionID = id // thin volumes have one of their own: when they were made
		}
		for _, d := range f.list("devices") {
			device, _, _ := strings.Cut(d, "(")
			if !has(v.Devices, device) {
				v.Devices = append(v.Devices, device)
			}
		}
		if f.err != nil {
			return f.err
		}
	}
	return nil
}

// reader takes typed values from a row and keeps the first error. A column that
// is missing is an error: LVM prints every column that was asked for.
type reader struct {
	row row
	err error
}

func (f *reader) text(column string) string {
	s, ok := f.row[column]
	if !ok {
		f.fail(column, "is missing")
	}
	return s
}

// list splits at commas; LVM prints nothing for an empty list. A volume's tags
// hold no comma.
func (f *reader) list(column string) []string {
	s := f.text(column)
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// yes reads --binary's 1; 0 is no, -1 is not known.
func (f *reader) yes(column string) bool {
	return f.text(column) == "1"
}

// number reads bytes; empty is 0.
func (f *reader) number(column string) int64 {
	s := f.text(column)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		f.fail(column, fmt.Sprintf("is no size: %q", s))
	}
	return n
}

// device reads a device number; -1 and empty mean that there is none.
func (f *reader) device(column string) int {
	s := f.text(column)
	if s == "" || s == "-1" {
		return -1
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		f.fail(column, fmt.Sprintf("is no device number: %q", s))
	}
	return int(n)
}

// percent reads a percentage; empty is nil.
func (f *reader) percent(column string) *float64 {
	s := f.text(column)
	if s == "" {
		return nil
	}
	p, err := strconv.ParseFloat(s, 64)
	if err != nil || !(p >= 0 && p <= 100) {
		f.fail(column, fmt.Sprintf("is no percentage: %q", s))
		return nil
	}
	return &p
}

// time reads seconds since 1970; empty is the zero time (made by an old LVM).
func (f *reader) time(column string) time.Time {
	n := f.number(column)
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

func (f *reader) fail(column, problem string) {
	if f.err == nil {
		f.err = fmt.Errorf("column %s of %s %s", column, f.subject(), problem)
	}
}

func (f *reader) subject() string {
	for _, key := range []string{"lv_name", "pv_name", "vg_name", "lv_uuid"} {
		if name := f.row[key]; name != "" {
			return name
		}
	}
	return "a row"
}

func has(list []string, word string) bool {
	return slices.Contains(list, word)
}

// lines returns the lines of LVM's messages, without the indent it gives them.
func lines(s string) []string {
	var out []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}
