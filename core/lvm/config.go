package lvm

// An administrator may set anything in lvm.conf(5). What is set there and would change what LVM prints for us, or what
// our commands do, is overridden here; everything else (filters, lists of volumes to activate, archives, monitoring)
// stays the administrator's, and where it makes a command fail, explain says so. Only what is named is overridden.

// config goes with every command of LVM. Its messages are on stderr and bare. An LVM that is told to keep away from
// device-mapper would call every volume inactive. Without udev_sync a command returns before the device it made has a
// name, and lvcreate fails for that. With a snapshot in read_only_volume_list lvcreate would not clear its COW space
// and yet succeed, and its origin would become read-only under what writes to it.
const config = `log{report_command_log=0 command_names=0} global{activation=1} ` +
	`activation{udev_sync=1 read_only_volume_list=[]} devices{dir="/dev"}`

// reportConfig is what the decoder relies on: brackets around hidden volumes, no column left out, times as seconds
// since 1970, commas in lists. LVM 2.03.16 prints no JSON with prefixes, and no LVM prints a report with a column to
// sort by that it does not know.
const reportConfig = `report{mark_hidden_devices=1 compact_output=0 prefixes=0 quoted=1 buffered=1 headings=1 ` +
	`columns_as_rows=0 binary_values_as_numeric=1 time_format="%s" list_item_separator="," ` +
	`vgs_sort_full="vg_name" pvs_sort_full="pv_name" lvs_sort="vg_name,lv_name" lvs_sort_full="vg_name,lv_name" ` +
	`pvsegs_sort_full="pv_uuid,pvseg_start" segs_sort_full="lv_uuid,seg_start"} `

// mergeConfig has LVM's own poller watch a merge: lvmpolld does not take the sign that puts its first look off.
const mergeConfig = ` global/use_lvmpolld=0`
