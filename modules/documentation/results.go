package main

import "cmp"

// notes are what the documentation of a module says in addition to the summary.
var notes = map[string][]string{
	"lvm_snapshot": {
		"The set is taken at one instant. If that fails, no snapshot is left behind.",
		"A set that exists is not taken again: the same task may be run as often as one likes.",
	},
	"lvm_merge": {
		"Everything is checked before the first service stops, and a refusal changes nothing. Once LVM has begun to merge, " +
			"the rollback goes on to its end, also after a power cut.",
		"The merge uses up the snapshots. What was written since the set was taken is lost; with check_mode and diff the " +
			"module says how much that is.",
	},
	"snap_backup_info": {
		"Like every run it first settles what an interrupted run has left on the server.",
	},
	"snap_backup": {
		"A backup is read from the snapshots of a set, and shows the instant of that set. It is listed as complete only " +
			"when it is known to be.",
		"A restore is written into new snapshots while the server goes on working, and merged if that is asked for.",
		"A schedule needs no controller: a timer of systemd makes the backup with the arguments of the task, which are " +
			"kept in /etc/rewind, where only root can read them. Before that the backup is planned once, so that the task " +
			"fails now if the backup would fail at night.",
	},
}

// resultKey describes a key of a result, or of a mapping in a result. when says in which results it is.
type resultKey struct {
	name, kind, elements, doc, when string
	keys                            []resultKey
}

const (
	always  = "always"
	failure = "on failure"
	success = "success"
)

// commonKeys are the keys that the results of all modules have.
var commonKeys = []resultKey{
	{name: "msg", kind: "str", doc: "What was done, or what is wrong.", when: always},
	{name: "code", kind: "str", when: failure,
		doc: "What kind of failure it is: busy, no_space, snapshot_invalid and others, which never change their meaning."},
	{name: "hint", kind: "str", doc: "The next step.", when: failure},
	{name: "container", kind: "str", doc: "The kind of container. The volumes of a container belong to its host.",
		when: "on failure in a container"},
	{name: "problems", kind: "list", elements: "dict",
		doc: "If several things are wrong, all of them, each with its code and msg.", when: failure},
	{name: "rewind_version", kind: "str", doc: "The version of the program.", when: always},
	{name: "commands", kind: "list", elements: "dict", when: always, doc: "Every command that was run.", keys: []resultKey{
		{name: "argv", kind: "list", elements: "str", doc: "The command and its arguments."},
		{name: "rc", kind: "int", doc: "Its exit code."},
		{name: "ms", kind: "float", doc: "How long it took, in milliseconds."},
	}},
}

// setKeys are the keys of a result that describe a set.
var setKeys = []resultKey{
	{name: "name", kind: "str", doc: "The set's name.", when: success},
	{name: "id", kind: "str", doc: "The set's id, which no other set of the same name has.", when: success},
	{name: "time", kind: "str", doc: "The set's instant, RFC 3339.", when: success},
	{name: "consistency", kind: "str",
		doc: "Set if all members show one instant, volume if each shows an instant of its own.", when: success},
}

// runKeys are the keys of modules that begin a run and need not wait for its end.
var runKeys = []resultKey{
	{name: "finished", kind: "bool", doc: "Whether the run has ended.", when: "with detach or run"},
	{name: "run", kind: "dict", doc: "The run that goes on.", when: "with detach or run, until it has ended",
		keys: []resultKey{
			{name: "id", kind: "str", doc: "The id, for the argument run."},
			{name: "unit", kind: "str", doc: "Its unit of systemd."},
			{name: "kind", kind: "str", doc: "What kind of run it is."},
			{name: "title", kind: "str", doc: "What it does."},
			{name: "name", kind: "str", doc: "The set that it works on.", when: "if it works on a set"},
			{name: "begun", kind: "str", doc: "When it began, RFC 3339."},
			{name: "label", kind: "str", doc: "What it is doing at the moment."},
			{name: "percent", kind: "float", doc: "How much of that is done, if it is known."},
			{name: "bytes", kind: "int", doc: "How much was read or written for that, if it is known."},
		}},
}

// moduleKeys are the keys that only one module's result has, or some, by module.
var moduleKeys = map[string][]resultKey{
	"lvm_snapshot": concat(runKeys, setKeys, []resultKey{
		{name: "pause_ms", kind: "int",
			doc: "How long writes waited at most, in milliseconds.", when: "when a set was taken"},
		{name: "snapshots", kind: "list", elements: "dict", doc: "The members.", when: success, keys: []resultKey{
			{name: "volume", kind: "str", doc: "The volume, vg/lv."},
			{name: "snapshot", kind: "str", doc: "Its snapshot, vg/lv."},
			{name: "cow_bytes", kind: "int", doc: "COW space of a thick snapshot."},
			{name: "cow_used_bytes", kind: "int", doc: "How much of that is used."},
			{name: "thin", kind: "bool", doc: "Whether the volume is thin."},
			{name: "state", kind: "str", doc: "The snapshot's state, as LVM calls it."},
			{name: "method", kind: "str", doc: "How writes to the volume were paused."},
			{name: "pause_ms", kind: "float", doc: "How long writes waited, in milliseconds."},
			{name: "mountpoint", kind: "str", doc: "Where the snapshot is mounted."},
		}},
	}),
	"lvm_merge": concat(runKeys, []resultKey{
		{name: "name", kind: "str", doc: "The set's name, or the snapshots' names.", when: success},
		{name: "id", kind: "str", doc: "The set's id, which no other set of the same name has.", when: success},
		{name: "state", kind: "str",
			doc: "The state of the volume that is furthest behind; see volumes.", when: success},
		{name: "discarded_since", kind: "str",
			doc: "The set's instant, RFC 3339. What was written after it is lost.", when: success},
		{name: "downtime_ms", kind: "int", when: "when services were stopped",
			doc: "From the moment the first service was told to stop until the last was started, in milliseconds."},
		{name: "services", kind: "list", elements: "str", doc: "The units that were stopped.", when: success},
		{name: "failed_services", kind: "list", elements: "dict", doc: "Units that did not start, and why.", when: failure},
		{name: "holders", kind: "list", elements: "dict",
			doc: "Who holds a volume open.", when: "when something does", keys: []resultKey{
				{name: "pid", kind: "int", doc: "The process."},
				{name: "command", kind: "str", doc: "Its command."},
				{name: "unit", kind: "str", doc: "Its unit of systemd."},
				{name: "path", kind: "str", doc: "What it holds open."},
			}},
		{name: "volumes", kind: "list", elements: "dict", doc: "The members.", when: success, keys: []resultKey{
			{name: "volume", kind: "str", doc: "The volume, vg/lv."},
			{name: "snapshot", kind: "str", doc: "Its snapshot, vg/lv."},
			{name: "state", kind: "str", doc: "Merging, merged, deferred, waiting or not_rolled_back."},
			{name: "percent", kind: "float", doc: "How much of the snapshot is merged."},
			{name: "discarded_bytes", kind: "int", doc: "How much was written to the volume since the set was taken, " +
				"at most; null for a thin volume, of which that is not known."},
		}},
	}),
	"lvm_snapshot_info": {
		{name: "host", kind: "dict",
			doc:  "What this server can do: usable, problems, kernel, kernel_modules, lvm_version, systemd, container.",
			when: success},
		{name: "groups", kind: "list", elements: "dict",
			doc: "The volume groups with their sizes, room and thin pools.", when: success},
		{name: "sets", kind: "list", elements: "dict", when: success,
			doc: "Each set with its state, age and snapshots; for an incomplete one the volumes whose snapshots are missing, " +
				"where that is known; for one that was filled with a backup, that backup's id and time."},
		{name: "unmanaged", kind: "list", elements: "dict", doc: "Snapshots that belong to no set.", when: success},
		{name: "mounts", kind: "list", elements: "dict",
			doc: "File systems on logical volumes, with the layers between them.", when: success},
		{name: "last_rollback", kind: "dict", doc: "The last rollback, and how far it is.", when: success},
		{name: "under_way", kind: "list", elements: "dict", doc: "Every run at work on this server now.", when: success},
		{name: "backups", kind: "list", elements: "dict",
			doc:  "The jobs, which are the backups of one name, one list of volumes and one place, with their last results.",
			when: success, keys: []resultKey{
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "backend", kind: "str", doc: "The backend."},
				{name: "host", kind: "str", doc: "The server whose backups they are."},
				{name: "volumes", kind: "list", elements: "str", doc: "The volumes to be backed up."},
				{name: "state", kind: "str",
					doc: "The state of the last run: ok, failed, running, or interrupted if it was killed."},
				{name: "begun", kind: "str", doc: "When the last run began, RFC 3339."},
				{name: "ended", kind: "str", doc: "When the last run ended, RFC 3339."},
				{name: "code", kind: "str", doc: "What kind of failure it was."},
				{name: "msg", kind: "str", doc: "Why the last run failed."},
				{name: "age_seconds", kind: "int", doc: "How old the last good backup is; null if there is none."},
				{name: "good", kind: "dict",
					doc: "The last good backup: its id, time, volumes, files, bytes and stored_bytes."},
			}},
		{name: "backups_not_begun", kind: "list", elements: "dict", when: success,
			doc: "Scheduled backups whose unit was started and began no backup, because their program or their arguments " +
				"could not be read.",
			keys: []resultKey{
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "unit", kind: "str", doc: "The unit of systemd. Its log says why."},
				{name: "since", kind: "str", doc: "When the unit was started, RFC 3339."},
			}},
		{name: "backups_scheduled", kind: "list", elements: "dict", when: success,
			doc: "The backups that systemd makes on this server, or would if their timers were active.",
			keys: []resultKey{
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "timer", kind: "str", doc: "The timer of systemd."},
				{name: "next", kind: "str", doc: "When the backup is due next, RFC 3339; empty: never again."},
				{name: "problem", kind: "str", doc: "Why it is not made although it is scheduled: its timer is not active."},
			}},
		{name: "program_dir", kind: "str", doc: "The directory in which programs are kept and from which they run.",
			when: success},
	},
	"snap_backup": concat(runKeys, []resultKey{
		{name: "backend", kind: "str", doc: "The backend.", when: success},
		{name: "host", kind: "str", doc: "The server whose backups they are.", when: success},
		{name: "id", kind: "str", doc: "The id of the backup that was made.", when: "after a backup"},
		{name: "time", kind: "str", doc: "The instant of the backup, RFC 3339.", when: "after a backup"},
		{name: "volumes", kind: "list", elements: "str", doc: "The volumes in the backup.", when: "after a backup"},
		{name: "files", kind: "int", doc: "How many files it has.", when: "after a backup"},
		{name: "bytes", kind: "int", doc: "Their size.", when: "after a backup"},
		{name: "stored_bytes", kind: "int", doc: "How much of that was new to the repository.", when: "after a backup"},
		{name: "read_live", kind: "list", elements: "str",
			doc: "What was read live and so does not show the instant.", when: "if something was read live"},
		{name: "name", kind: "str", doc: "The set's name.", when: success},
		{name: "duration_ms", kind: "int", doc: "How long the backup took, in milliseconds.", when: "after a backup"},
		{name: "restore_id", kind: "str", doc: "The id of the backup that was restored.", when: "after a restore"},
		{name: "backup_time", kind: "str", doc: "The instant of that backup, RFC 3339.", when: "after a restore"},
		{name: "restored", kind: "list", elements: "dict",
			doc: "What was compared and written of each volume, in bytes and files.", when: "after a restore"},
		{name: "timer", kind: "str", doc: "The timer of systemd that makes the backup.", when: "after schedule"},
		{name: "calendar", kind: "str", doc: "When the timer does so.", when: "after schedule"},
		{name: "restore_ms", kind: "int", doc: "How long the restore took, in milliseconds.", when: "after a restore"},
	}),
	"snap_backup_info": {
		{name: "backups", kind: "list", elements: "dict",
			doc: "The backups, the newest first.", when: success, keys: []resultKey{
				{name: "id", kind: "str", doc: "The backup's id, for the argument restore_id."},
				{name: "host", kind: "str", doc: "The server whose backup it is."},
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "time", kind: "str", doc: "The instant of the backup, RFC 3339."},
				{name: "volumes", kind: "list", elements: "str", doc: "The volumes in the backup."},
				{name: "complete", kind: "bool", doc: "Whether all of it could be read and stored."},
				{name: "files", kind: "int", doc: "How many files it has."},
				{name: "bytes", kind: "int", doc: "Their size."},
				{name: "dated_in_future", kind: "bool",
					doc: "Whether its time is later than now, so that nobody knows how old it is."},
			}},
	},
}

func concat(lists ...[]resultKey) (all []resultKey) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// returnDoc returns the description of a result for ansible-doc: first the keys that all results have, then the
// module's own.
func returnDoc(own []resultKey) string {
	y := &yaml{}
	y.values(0, concat(commonKeys, own))
	return y.String()
}

func (y *yaml) values(indent int, list []resultKey) {
	for _, v := range list {
		y.line(indent, v.name+":")
		y.pair(indent+1, "description", v.doc)
		y.pair(indent+1, "type", v.kind)
		if v.elements != "" {
			y.pair(indent+1, "elements", v.elements)
		}
		y.pair(indent+1, "returned", cmp.Or(v.when, always))
		if len(v.keys) > 0 {
			y.line(indent+1, "contains:")
			y.values(indent+2, v.keys)
		}
	}
}
