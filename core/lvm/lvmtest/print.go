package lvmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/lvm"
)

// fullreport prints the columns that were asked for. It panics at a column that it does not know.
func (f *Fake) fullreport(o options, names []string) (string, error) {
	wanted := o["--configreport"]
	if len(names) > 0 || len(wanted) != len(o["--options"]) || !o.has("--all") || !o.has("--binary") ||
		!o.has("--nosuffix") || o.value("--units") != "b" || o.value("--reportformat") != "json" ||
		!strings.Contains(o.value("--config"), `time_format="%s"`) {
		panic(fmt.Sprintf("lvmtest: fullreport of %q with %v", names, o))
	}
	columns := map[string][]string{}
	for i, part := range wanted {
		columns[part] = strings.Split(o["--options"][i], ",")
	}
	parts := []any{}
	var warning error
	for _, g := range f.groups {
		if g.hidden {
			continue
		}
		parts = append(parts, g.report(columns))
		if g.Partial {
			warning = lvmError("WARNING: VG %s is missing PV %s (last written to [unknown]).", g.Name, g.pvRow()["pv_uuid"])
		}
	}
	out, err := json.Marshal(map[string]any{"report": parts})
	if err != nil {
		return "", err
	}
	return "  " + string(out) + "\n", warning
}

// lvs prints the columns that were asked for, of the named volumes.
func (f *Fake) lvs(o options, names []string) (string, error) {
	if !o.has("--readonly") || o.value("--reportformat") != "json" ||
		!strings.Contains(o.value("--config"), "prefixes=0") {
		panic(fmt.Sprintf("lvmtest: lvs of %q with %v", names, o))
	}
	rows := []any{}
	for _, v := range f.allVolumes() {
		if slices.Contains(names, v.fullName()) {
			rows = append(rows, pick(v.lvRow(), strings.Split(o.value("--options"), ",")))
		}
	}
	out, err := json.Marshal(map[string]any{"report": []any{map[string]any{"lv": rows}}})
	return string(out), errors.Join(append(f.notFoundErrors(names), err)...)
}

func (f *Fake) lvmconfig(o options, names []string) (string, error) {
	directories := map[string]string{"global/locking_dir": "/run/lock/lvm",
		"backup/archive_dir": f.dir + "/archive", "backup/backup_dir": f.dir + "/backup"}
	var out strings.Builder
	for _, name := range names {
		dir, known := directories[name]
		if o.value("--type") != "full" || !known {
			panic(fmt.Sprintf("lvmtest: lvmconfig of %q with %v", names, o))
		}
		fmt.Fprintf(&out, "%s=%q\n", path.Base(name), dir)
	}
	return out.String(), nil
}

func (g *group) report(columns map[string][]string) map[string]any {
	lv, seg := []any{}, []any{}
	for _, v := range g.volumes {
		lv = append(lv, pick(v.lvRow(), columns["lv"]))
		seg = append(seg, pick(v.lvRow(), columns["seg"]))
	}
	return map[string]any{
		"vg":    []any{pick(g.vgRow(), columns["vg"])},
		"pv":    []any{pick(g.pvRow(), columns["pv"])},
		"lv":    lv,
		"pvseg": []any{pick(map[string]string{"pvseg_start": "0"}, columns["pvseg"])},
		"seg":   seg,
	}
}

// pick returns those columns of a row. It panics at a column that the row does not have.
func pick(row map[string]string, columns []string) map[string]string {
	picked := map[string]string{}
	for _, c := range columns {
		value, known := row[c]
		if !known {
			panic("lvmtest: unknown column " + c)
		}
		picked[c] = value
	}
	return picked
}

func (g *group) vgRow() map[string]string {
	return map[string]string{
		"vg_name": g.Name, "vg_uuid": g.uuid, "vg_extent_size": decimal(g.ExtentSize), "vg_size": decimal(g.Size),
		"vg_permissions": "writeable", "vg_partial": binary(g.Partial), "vg_shared": "0",
		"vg_clustered": "0", "vg_exported": "0", "vg_lock_type": "",
	}
}

func (g *group) pvRow() map[string]string {
	return map[string]string{
		"pv_name": "/dev/loop0", "pv_uuid": g.uuid + "-pv", "pv_size": decimal(g.Size), "pv_free": decimal(g.free()),
		"pv_missing": binary(g.Partial), "pv_allocatable": "1",
	}
}

func (v *volume) lvRow() map[string]string {
	layout, role := v.layoutAndRole()
	row := map[string]string{
		"lv_name": v.Name, "lv_uuid": v.uuid, "lv_path": "/dev/" + v.fullName(),
		"lv_dm_path": "/dev/mapper/" + lvm.DMName(v.vg.Name, v.Name), "lv_layout": layout, "lv_role": role,
		"lv_attr": v.lvAttr(), "lv_size": decimal(v.Size), "lv_tags": strings.Join(v.Tags, ","),
		"lv_time": decimal(v.created.Unix()), "origin": v.Origin, "origin_uuid": v.originUUID, "origin_size": "",
		"pool_lv": v.Pool, "lv_kernel_major": "-1", "lv_kernel_minor": "-1", "lv_device_open": binary(v.Open > 0),
		"lv_suspended": binary(v.suspended), "lv_merging": binary(v.merging || v.hasMergingSnapshot() && v.Kind != lvm.Thin),
		"lv_merge_failed": "-1", "lv_snapshot_invalid": "-1", "lv_skip_activation": binary(v.skipActivation),
		"lv_historical":  "0",
		"lv_permissions": v.permissions(), "data_percent": "", "metadata_percent": "", "snap_percent": "",
		"chunk_size": "0", "transaction_id": "0", "vg_name": v.vg.Name, "thin_id": decimal(int64(v.thinID)),
		"devices": "/dev/loop0(0)",
	}
	if v.Kind == lvm.ThinPool {
		row["transaction_id"], row["lv_path"] = decimal(poolTransaction), ""
	}
	if v.active {
		row["lv_kernel_major"], row["lv_kernel_minor"] = strconv.Itoa(major), strconv.Itoa(v.minor)
	}
	if v.merging {
		row["lv_name"], row["lv_path"] = "["+v.Name+"]", ""
	}
	v.addSnapshotColumns(row)
	return row
}

func (v *volume) permissions() string {
	if v.readOnly {
		return "read-only"
	}
	return "writeable"
}

func (v *volume) addSnapshotColumns(row map[string]string) {
	if origin := v.vg.byUUID(v.originUUID); origin != nil && v.Kind == lvm.Snapshot {
		row["origin_size"], row["chunk_size"] = decimal(origin.Size), decimal(v.chunkSize)
		if v.kernelMerging {
			row["lv_kernel_minor"] = strconv.Itoa(origin.minor)
		}
		percent := fmt.Sprintf("%.2f", float64(v.usedSectors)/float64(v.Size/sector)*100)
		if v.active {
			row["data_percent"], row["snap_percent"] = percent, percent
			row["lv_merge_failed"], row["lv_snapshot_invalid"] = binary(v.mergeFailed), binary(v.invalid)
		}
	}
}

// layoutAndRole returns lv_layout and lv_role.
func (v *volume) layoutAndRole() (layout, role string) {
	role = "public"
	switch v.Kind {
	case lvm.ThinPool:
		return "thin,pool", "private"
	case lvm.Thin:
		layout = "thin,sparse"
	case lvm.RAID:
		layout = "raid,raid1"
	case lvm.Snapshot:
		return "linear", "public,snapshot,thicksnapshot"
	default:
		layout = string(v.Kind)
	}
	for _, s := range v.vg.snapshots(v) {
		role = "public,origin,thickorigin"
		if s.Kind == lvm.Thin {
			role = "public,origin,thinorigin"
		}
	}
	if v.Origin != "" {
		role += ",snapshot,thinsnapshot"
	}
	return layout, role
}

// lvAttr returns lv_attr, all ten characters of it (lvs(8)).
func (v *volume) lvAttr() string {
	kind, target := "-", "-"
	switch {
	case v.hasMergingSnapshot():
		kind, target = "O", "s"
	case v.isThickOrigin():
		kind, target = "o", "s"
	case v.merging:
		kind, target = "S", "s"
	case v.Kind == lvm.Snapshot:
		kind, target = "s", "s"
	case v.Kind == lvm.Thin:
		kind, target = "V", "t"
	case v.Kind == lvm.ThinPool:
		kind, target = "t", "t"
	}
	zero := "-"
	if v.Kind == lvm.Thin || v.Kind == lvm.ThinPool {
		target, zero = "t", "z"
	}
	open := "-"
	if v.Open > 0 {
		open = "o"
	}
	return kind + "wi-" + v.stateLetter() + open + target + zero + v.healthLetter() + "-"
}

func (v *volume) stateLetter() string {
	switch {
	case !v.active:
		return "-"
	case v.halfMade:
		return "i"
	case v.invalid && v.suspended:
		return "S"
	case v.invalid:
		return "I"
	case v.mergeFailed:
		return "m"
	case v.suspended:
		return "s"
	}
	return "a"
}

func (v *volume) healthLetter() string {
	if v.vg.Partial {
		return "p"
	}
	return "-"
}

func (f *Fake) volumeOfDevice(dm string) *volume {
	for _, v := range f.allVolumes() {
		if v.active && lvm.DMName(v.vg.Name, v.Name) == dm {
			return v
		}
	}
	return nil
}

// poolTransaction is the transaction id of every thin pool in LVM's metadata.
const poolTransaction = 3

// noDevices is what dmsetup prints on a host without device-mapper devices.
const noDevices = "No devices found\n"

func (f *Fake) dmStatus(options, []string) (string, error) {
	out := ""
	for _, v := range f.allVolumes() {
		if v.active {
			out += v.statusLines()
		}
	}
	if out == "" {
		return noDevices, nil
	}
	return out, nil
}

func (v *volume) statusLines() string {
	dm := lvm.DMName(v.vg.Name, v.Name)
	line := func(name, target string) string {
		return fmt.Sprintf("%s: 0 %d %s\n", name, v.deviceSectors(), target)
	}
	snapshots := v.vg.snapshots(v)
	for _, s := range snapshots {
		if s.kernelMerging {
			return line(dm, "snapshot-merge "+s.cowStatus()) + line(dm+"-real", "linear ")
		}
	}
	switch {
	case v.halfMade:
		return dm + ": \n" + line(dm+"-cow", "linear ")
	case v.Kind == lvm.Snapshot && v.kernelMerging:
		return line(dm, "error ") + line(dm+"-cow", "linear ")
	case v.Kind == lvm.Snapshot:
		return line(dm, "snapshot "+v.cowStatus()) + line(dm+"-cow", "linear ")
	case v.Kind == lvm.Thin:
		return line(dm, "thin 0 -")
	case v.Kind == lvm.ThinPool:
		id := poolTransaction
		if v.damaged {
			id -= 2
		}
		return line(dm, "linear ") +
			line(dm+"-tpool", fmt.Sprintf("thin-pool %d 10/1024 20/3200 - rw no_discard_passdown queue_if_no_space - 256 ", id))
	case v.hasInner:
		return line(dm, "linear ") + line(dm+"-real", "linear ")
	case v.isThickOrigin():
		return line(dm, "snapshot-origin ") + line(dm+"-real", "linear ")
	}
	return line(dm, "linear ")
}

// deviceSectors returns the length of the volume's device, which for a snapshot is that of its origin.
func (v *volume) deviceSectors() int64 {
	if origin := v.vg.byUUID(v.originUUID); origin != nil {
		return origin.Size / sector
	}
	return v.Size / sector
}

func (v *volume) cowStatus() string {
	switch {
	case v.invalid:
		return "Invalid"
	case v.mergeFailed:
		return "Merge failed"
	}
	return fmt.Sprintf("%d/%d %d", v.usedSectors, v.Size/sector, headerSectors)
}

func (f *Fake) dmInfo(o options, _ []string) (string, error) {
	if o.value("--options") != "name,uuid,major,minor,open,suspended" || o.value("--separator") != "|" {
		panic(fmt.Sprintf("lvmtest: dmsetup info with %v", o))
	}
	out := ""
	for _, v := range f.allVolumes() {
		if v.active {
			out += v.infoLine()
		}
	}
	if out == "" {
		return noDevices, nil
	}
	return out, nil
}

func (v *volume) infoLine() string {
	state := "Active"
	if v.suspended {
		state = "Suspended"
	}
	uuid := "LVM-" + strings.ReplaceAll(v.vg.uuid+v.uuid, "-", "")
	return fmt.Sprintf("%s|%s|%d|%d|%d|%s\n", lvm.DMName(v.vg.Name, v.Name), uuid, major, v.minor, v.Open, state)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func binary(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
