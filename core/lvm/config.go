package lvm

// An administrator may set anything in lvm.conf(5). The constants below override the settings that would change what
// LVM prints for this package, or what its commands do. All other settings (filters, lists of volumes to activate,
// archives, monitoring) stay as the administrator made them. If one of those makes a command fail, explain says so.

// config is given to every command of LVM.
//
//   - log: messages go to stderr, without the name of the command before them.
//   - activation=1: an LVM that is told to keep away from device-mapper would report every volume as inactive.
//   - udev_sync: without it a command returns before the device that it made has a name, and lvcreate then fails.
//   - read_only_volume_list: for a snapshot in that list, lvcreate would succeed without clearing the COW space, and
//     the origin would become read-only while programs write to it.
const config = `log{report_command_log=0 command_names=0} global{activation=1} ` +
	`activation{udev_sync=1 read_only_volume_list=[]} devices{dir="/dev"}`

// reportConfig sets what the decoder relies on: brackets around hidden volumes, no column left out, times as seconds
// since 1970, lists separated by commas. LVM 2.03.16 prints no JSON if prefixes is set, and no version of LVM prints a
// report if lvm.conf names a sort column that it does not know.
const reportConfig = `report{mark_hidden_devices=1 compact_output=0 prefixes=0 quoted=1 buffered=1 headings=1 ` +
	`columns_as_rows=0 binary_values_as_numeric=1 time_format="%s" list_item_separator="," ` +
	`vgs_sort_full="vg_name" pvs_sort_full="pv_name" lvs_sort="vg_name,lv_name" lvs_sort_full="vg_name,lv_name" ` +
	`pvsegs_sort_full="pv_uuid,pvseg_start" segs_sort_full="lv_uuid,seg_start"} `

// mergeConfig has LVM's own poller watch a merge, not lvmpolld, which does not obey the plus sign in --interval +60
// that delays the first check (see Merge).
const mergeConfig = ` global/use_lvmpolld=0`
