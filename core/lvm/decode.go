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

// row is one row of a report: the values by the names of their columns. All values in LVM's JSON are strings.
type row map[string]string

// reportEntry is what fullreport prints for one volume group. PVs without a group have an entry of their own, without
// VG.
type reportEntry struct {
	VG  []row `json:"vg"`
	PV  []row `json:"pv"`
	LV  []row `json:"lv"`
	Seg []row `json:"seg"`
}

// decode decodes the JSON that fullreport prints. Other lines may come before it, because LVM prints some messages to
// standard output. Fault: command_failed if the report cannot be read.
func decode(stdout string) (*Report, error) {
	entries, err := decodeEntries(stdout)
	if err != nil {
		return nil, err
	}
	report := new(Report)
	for _, entry := range entries {
		if len(entry.VG) == 0 {
			continue
		}
		g, err := entry.group()
		if err != nil {
			return nil, unreadableReport(stdout, err)
		}
		report.Groups = append(report.Groups, g)
	}
	sort.Slice(report.Groups, func(i, j int) bool { return report.Groups[i].Name < report.Groups[j].Name })
	return report, nil
}

// decodeEntries is decode for any report of LVM, and returns its entries as they are.
func decodeEntries(stdout string) ([]reportEntry, error) {
	start := jsonStart(stdout)
	if start < 0 {
		return nil, unreadableReport(stdout, errors.New("no JSON in it"))
	}
	var printed struct {
		Report []reportEntry `json:"report"`
	}
	if err := json.NewDecoder(strings.NewReader(stdout[start:])).Decode(&printed); err != nil {
		return nil, unreadableReport(stdout, err)
	}
	return printed.Report, nil
}

// jsonStart returns the offset of the first line that begins with a brace, or -1.
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

// unreadableReport returns the fault of a report that err kept from being decoded, with the beginning of the report.
func unreadableReport(stdout string, err error) error {
	const maxBytes = 400
	return fault.New(fault.CommandFailed, "LVM's report cannot be read: %w", err).
		With("stdout", stdout[:min(len(stdout), maxBytes)])
}

// group decodes the volume group that the entry is about.
func (e reportEntry) group() (Group, error) {
	cells := rowReader{row: e.VG[0]}
	g := Group{
		Name: cells.text("vg_name"), UUID: cells.text("vg_uuid"),
		ExtentSize: cells.number("vg_extent_size"), Size: cells.number("vg_size"),
		Partial: cells.boolean("vg_partial"), Shared: cells.boolean("vg_shared"), Clustered: cells.boolean("vg_clustered"),
		Exported: cells.boolean("vg_exported"), ReadOnly: cells.text("vg_permissions") != "writeable",
		LockType: cells.text("vg_lock_type"),
	}
	if cells.err != nil {
		return g, cells.err
	}
	for _, row := range e.PV {
		cells := rowReader{row: row}
		pv := PV{
			Device: cells.text("pv_name"), UUID: cells.text("pv_uuid"),
			Size: cells.number("pv_size"), Free: cells.number("pv_free"), Missing: cells.boolean("pv_missing"),
			NoAlloc: !cells.boolean("pv_allocatable"),
		}
		if cells.err != nil {
			return g, cells.err
		}
		if g.PVs = append(g.PVs, pv); !pv.Missing && !pv.NoAlloc {
			g.Free += pv.Free
		}
	}
	for _, row := range e.LV {
		v, err := decodeVolume(g.Name, row)
		if err != nil {
			return g, err
		}
		if err := v.addSegments(e.Seg); err != nil {
			return g, err
		}
		g.Volumes = append(g.Volumes, v)
	}
	return g, nil
}

// decodeVolume decodes a row of the subreport lv, all but what addSegments sets.
func decodeVolume(vg string, r row) (Volume, error) {
	cells := rowReader{row: r}
	name := cells.text("lv_name")
	layout, role, attr := cells.list("lv_layout"), cells.list("lv_role"), cells.text("lv_attr")
	v := Volume{
		VG: vg, Name: strings.Trim(name, "[]"), Hidden: strings.HasPrefix(name, "["),
		UUID: cells.text("lv_uuid"), Path: cells.text("lv_path"),
		DMName: strings.TrimPrefix(cells.text("lv_dm_path"), "/dev/mapper/"),
		Origin: strings.Trim(cells.text("origin"), "[]"), OriginUUID: cells.text("origin_uuid"),
		Pool: strings.Trim(cells.text("pool_lv"), "[]"), Kind: kindOf(layout, role),
		Size: cells.number("lv_size"),
		Open: cells.boolean("lv_device_open"), Suspended: cells.boolean("lv_suspended"),
		Historical: cells.boolean("lv_historical"), IsOrigin: has(role, "origin"),
		IsExternalOrigin: has(role, "externalorigin"), Private: has(role, "private"),
		Merging: cells.boolean("lv_merging") || isMergingOrigin(attr), MergeFailed: cells.boolean("lv_merge_failed"),
		SnapshotInvalid: cells.boolean("lv_snapshot_invalid"), SkipActivation: cells.boolean("lv_skip_activation"),
		Major: cells.deviceNumber("lv_kernel_major"), Minor: cells.deviceNumber("lv_kernel_minor"),
		DataPercent: cells.percent("data_percent"), MetadataPercent: cells.percent("metadata_percent"),
		Created: cells.time("lv_time"), Tags: cells.list("lv_tags"),
		ReadOnly: cells.text("lv_permissions") == "read-only", Locked: isLocked(attr),
	}
	v.Active = v.Major >= 0
	v.State, v.Health = parseAttributes(attr)
	v.adjustState()
	v.setCOW(&cells)
	return v, cells.err
}

// isLocked reports whether lv_attr is that of a volume that is locked: the letter of its allocation policy is then a
// capital (lvs(8)).
func isLocked(attr string) bool { return len(attr) > 2 && 'A' <= attr[2] && attr[2] <= 'Z' }

// isMergingOrigin reports whether lv_attr is that of an origin that is merging. LVM sets lv_merging for a thick origin,
// but not for a thin one.
func isMergingOrigin(attr string) bool {
	return strings.HasPrefix(attr, "O")
}

// adjustState makes the state agree with LVM's named columns, which report an overflow also where the fifth character
// of lv_attr cannot show it. It also sets the state Merging.
func (v *Volume) adjustState() {
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

// setCOW sets the fields that only a thick snapshot has. LVM fills their columns for origins, pools and thin volumes
// too, but with other meanings.
func (v *Volume) setCOW(cells *rowReader) {
	originSize, percent := cells.number("origin_size"), cells.percent("snap_percent")
	if v.Kind != Snapshot {
		return
	}
	v.OriginSize, v.SnapPercent, v.COWSize = originSize, percent, v.Size
	if v.SnapPercent != nil {
		v.COWUsed = int64(float64(v.Size) * *v.SnapPercent / 100)
	}
}

// addSegments sets what LVM reports for each segment of a volume: the devices of all segments, and the values that are
// the same in all of them.
func (v *Volume) addSegments(segments []row) error {
	for _, r := range segments {
		cells := rowReader{row: r}
		if cells.text("lv_uuid") != v.UUID {
			continue
		}
		v.ChunkSize = max(v.ChunkSize, cells.number("chunk_size"))
		if id := cells.number("transaction_id"); v.Kind == ThinPool {
			v.TransactionID = id // a thin volume has one too: that of its pool when the volume was created
		}
		if v.Kind == Thin {
			v.ThinID = cells.number("thin_id")
		}
		for _, d := range cells.list("devices") {
			device, _, _ := strings.Cut(d, "(")
			if !has(v.Devices, device) {
				v.Devices = append(v.Devices, device)
			}
		}
		if cells.err != nil {
			return cells.err
		}
	}
	return nil
}

// rowReader reads typed values from a row and keeps the first error. A missing column is an error, because LVM prints
// every column that was asked for.
type rowReader struct {
	row row
	err error
}

// text reads a column as it is.
func (r *rowReader) text(column string) string {
	s, ok := r.row[column]
	if !ok {
		r.fail(column, "is missing")
	}
	return s
}

// list reads a list that is separated by commas. LVM prints nothing for an empty list. A tag cannot contain a comma.
func (r *rowReader) list(column string) []string {
	s := r.text(column)
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// boolean reads a column that --binary prints as 1 (true), 0 (false) or -1 (unknown). Unknown counts as false.
func (r *rowReader) boolean(column string) bool {
	return r.text(column) == "1"
}

// number reads a size in bytes, or another number that is never negative. An empty value is 0.
func (r *rowReader) number(column string) int64 {
	s := r.text(column)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		r.fail(column, fmt.Sprintf("is no size: %q", s))
	}
	return n
}

// deviceNumber reads a major or minor device number. It returns -1 for -1 and for an empty value: there is no device.
func (r *rowReader) deviceNumber(column string) int {
	s := r.text(column)
	if s == "" || s == "-1" {
		return -1
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		r.fail(column, fmt.Sprintf("is no device number: %q", s))
	}
	return int(n)
}

// percent reads a percentage, 0 to 100. An empty value is nil.
func (r *rowReader) percent(column string) *float64 {
	s := r.text(column)
	if s == "" {
		return nil
	}
	p, err := strconv.ParseFloat(s, 64)
	if err != nil || !(p >= 0 && p <= 100) {
		r.fail(column, fmt.Sprintf("is no percentage: %q", s))
		return nil
	}
	return &p
}

// time reads seconds since 1970. An empty value is the zero time: an old LVM made the volume.
func (r *rowReader) time(column string) time.Time {
	n := r.number(column)
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

// fail keeps the first error.
func (r *rowReader) fail(column, problem string) {
	if r.err == nil {
		r.err = fmt.Errorf("column %s of %s %s", column, r.subject(), problem)
	}
}

// subject returns the name of what the row describes, for an error.
func (r *rowReader) subject() string {
	for _, key := range []string{"lv_name", "pv_name", "vg_name", "lv_uuid"} {
		if name := r.row[key]; name != "" {
			return name
		}
	}
	return "a row"
}

func has(list []string, word string) bool {
	return slices.Contains(list, word)
}

// lines returns the lines of LVM's messages that are not empty, without LVM's indentation.
func lines(s string) []string {
	var out []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}
