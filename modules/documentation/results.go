package main

import "cmp"

// notes are what a module's documentation says beside its summary.
var notes = map[string][]string{
	"lvm_snapshot": {
		"The set is taken at one instant; if it cannot be, nothing stays behind.",
		"A set that is there already is not taken again: the same task may be run as often as one likes.",
	},
	"lvm_merge": {
		"Everything is checked before the first service stops, and a no changes nothing. Once LVM has begun to merge, the " +
			"rollback goes on to its end, also after a power cut.",
		"The snapshots are used up. What was written since is gone; with check_mode and diff it is said how much that is.",
	},
	"snap_backup_info": {
		"Like every run it first settles what one that was interrupted has left on the server.",
	},
	"snap_backup": {
		"A backup is what the set was, read from its snapshots, and is listed as complete only when it is known to be.",
		"A restore is written into new snapshots while the server goes on working, and merged if that is asked for.",
		"A schedule needs no controller: a timer of systemd makes the backup with the arguments of the task, which are kept in " +
			"/etc/rewind for root alone. The backup is planned once before, so that what would go wrong at night is said now.",
	},
}

// value is a key of a result, or of a mapping in it.
type value struct {
	name, kind, elements, doc, when string
	keys                            []value
}

const (
	always  = "always"
	failure = "on failure"
	success = "success"
)

// common are the keys that every module's result has beside its own.
var common = []value{
	{name: "msg", kind: "str", doc: "What was done, or what is wrong.", when: always},
	{name: "code", kind: "str", when: failure,
		doc: "What kind of failure it is: busy, no_space, snapshot_invalid and others, which never change their meaning."},
	{name: "hint", kind: "str", doc: "The next step.", when: failure},
	{name: "container", kind: "str", doc: "What kind of container this is, whose volumes are its host's.",
		when: "on failure in a container"},
	{name: "problems", kind: "list", elements: "dict",
		doc: "Where several things are wrong, each with a code and msg of its own.", when: failure},
	{name: "rewind_version", kind: "str", doc: "The version of the program.", when: always},
	{name: "commands", kind: "list", elements: "dict", when: always, doc: "Every command that was run.", keys: []value{
		{name: "argv", kind: "list", elements: "str", doc: "The command and its words."},
		{name: "rc", kind: "int", doc: "Its exit code."},
		{name: "ms", kind: "float", doc: "How long it took, in milliseconds."},
	}},
}

var setKeys = []value{
	{name: "name", kind: "str", doc: "The set's name.", when: success},
	{name: "id", kind: "str", doc: "What tells the set from others of its name.", when: success},
	{name: "time", kind: "str", doc: "The set's instant, RFC 3339.", when: success},
	{name: "consistency", kind: "str",
		doc: "Set where all members are of one instant, volume where each is of its own.", when: success},
}

// runKeys are those of modules that begin a run and need not wait for it.
var runKeys = []value{
	{name: "finished", kind: "bool", doc: "Whether the run has ended.", when: "with detach or run"},
	{name: "run", kind: "dict", doc: "The run that goes on.", when: "with detach or run, until it has ended", keys: []value{
		{name: "id", kind: "str", doc: "What run takes."},
		{name: "unit", kind: "str", doc: "Its unit of systemd."},
		{name: "kind", kind: "str", doc: "What kind of run it is."},
		{name: "title", kind: "str", doc: "What it does."},
		{name: "name", kind: "str", doc: "The set that it works on.", when: "where it is one"},
		{name: "begun", kind: "str", doc: "When it began, RFC 3339."},
		{name: "label", kind: "str", doc: "What it is at."},
		{name: "percent", kind: "float", doc: "How much of that is done, where that can be said."},
		{name: "bytes", kind: "int", doc: "How much was read or written, where that can be said."},
	}},
}

// results are the keys of each module's result that are its own.
var results = map[string][]value{
	"lvm_snapshot": join(runKeys, setKeys, []value{
		{name: "pause_ms", kind: "int",
			doc: "How long writes waited at most, in milliseconds.", when: "when a set was taken"},
		{name: "snapshots", kind: "list", elements: "dict", doc: "The members.", when: success, keys: []value{
			{name: "volume", kind: "str", doc: "The volume, vg/lv."},
			{name: "snapshot", kind: "str", doc: "Its snapshot, vg/lv."},
			{name: "cow_bytes", kind: "int", doc: "COW space of a thick one."},
			{name: "cow_used_bytes", kind: "int", doc: "How much of that is used."},
			{name: "thin", kind: "bool", doc: "Whether it is thin."},
			{name: "state", kind: "str", doc: "LVM's name of its state."},
			{name: "method", kind: "str", doc: "How its writes were held."},
			{name: "pause_ms", kind: "float", doc: "How long they waited, in milliseconds."},
			{name: "mountpoint", kind: "str", doc: "Where the snapshot is mounted."},
		}},
	}),
	"lvm_merge": join(runKeys, []value{
		{name: "name", kind: "str", doc: "The set's name, or the snapshots' names.", when: success},
		{name: "id", kind: "str", doc: "What tells the set from others of its name.", when: success},
		{name: "state", kind: "str",
			doc: "What the volume that is furthest behind has come to, as for each volume.", when: success},
		{name: "discarded_since", kind: "str",
			doc: "The set's instant, RFC 3339. What was written since is gone.", when: success},
		{name: "downtime_ms", kind: "int", when: "when services were stopped",
			doc: "From the moment the first service was told to stop until the last was started, in milliseconds."},
		{name: "services", kind: "list", elements: "str", doc: "The units that were stopped.", when: success},
		{name: "failed_services", kind: "list", elements: "dict", doc: "Units that did not start, and why.", when: failure},
		{name: "holders", kind: "list", elements: "dict",
			doc: "Who holds a volume open.", when: "when something does", keys: []value{
				{name: "pid", kind: "int", doc: "The process."},
				{name: "command", kind: "str", doc: "Its command."},
				{name: "unit", kind: "str", doc: "Its unit of systemd."},
				{name: "path", kind: "str", doc: "What it has open."},
			}},
		{name: "volumes", kind: "list", elements: "dict", doc: "The members.", when: success, keys: []value{
			{name: "volume", kind: "str", doc: "The volume, vg/lv."},
			{name: "snapshot", kind: "str", doc: "Its snapshot, vg/lv."},
			{name: "state", kind: "str", doc: "Merging, merged, deferred, waiting or not_rolled_back."},
			{name: "percent", kind: "float", doc: "How much of it is merged."},
			{name: "discarded_bytes", kind: "int", doc: "What was written to the volume since the set, at most; null for a thin volume, whose pool does not tell."},
		}},
	}),
	"lvm_snapshot_info": {
		{name: "host", kind: "dict",
			doc: "What this server can do: usable, problems, kernel, kernel_modules, lvm_version, systemd, container.", when: success},
		{name: "groups", kind: "list", elements: "dict",
			doc: "The volume groups with their sizes, room and thin pools.", when: success},
		{name: "sets", kind: "list", elements: "dict", when: success,
			doc: "Each set with its state, age and snapshots; one that was filled with a backup with its backup: id and time."},
		{name: "unmanaged", kind: "list", elements: "dict", doc: "Snapshots that belong to no set.", when: success},
		{name: "mounts", kind: "list", elements: "dict",
			doc: "File systems on logical volumes, with what lies between.", when: success},
		{name: "last_rollback", kind: "dict", doc: "The last rollback, and how far it has come.", when: success},
		{name: "under_way", kind: "list", elements: "dict", doc: "Every run at work on this server now.", when: success},
		{name: "backups", kind: "list", elements: "dict",
			doc: "What came of the last backups of each job: a name, a backend and its volumes.", when: success, keys: []value{
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "backend", kind: "str", doc: "The backend."},
				{name: "host", kind: "str", doc: "Whose backups they are."},
				{name: "volumes", kind: "list", elements: "str", doc: "What is to be backed up."},
				{name: "state", kind: "str", doc: "What the last run came to: ok, failed, running, or interrupted where it was killed."},
				{name: "begun", kind: "str", doc: "When that began, RFC 3339."},
				{name: "ended", kind: "str", doc: "When it ended, RFC 3339."},
				{name: "code", kind: "str", doc: "What kind of failure it was."},
				{name: "msg", kind: "str", doc: "Why it failed."},
				{name: "age_seconds", kind: "int", doc: "How old the last good backup is; null where there is none."},
				{name: "good", kind: "dict",
					doc: "The last good backup: its id, time, volumes, files, bytes and stored_bytes."},
			}},
		{name: "backups_not_begun", kind: "list", elements: "dict", when: success,
			doc: "Scheduled backups whose last start came to none, because their program or their arguments could not be read.",
			keys: []value{
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "unit", kind: "str", doc: "The unit of systemd, whose journal says why."},
				{name: "since", kind: "str", doc: "When it was started, RFC 3339."},
			}},
		{name: "backups_scheduled", kind: "list", elements: "dict", when: success,
			doc: "The backups that systemd makes on this server.", keys: []value{
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "timer", kind: "str", doc: "The timer of systemd."},
				{name: "next", kind: "str", doc: "When it is due next, RFC 3339; empty: never again."},
			}},
		{name: "program_dir", kind: "str", doc: "The directory that programs are kept in and run from.", when: success},
	},
	"snap_backup": join(runKeys, []value{
		{name: "backend", kind: "str", doc: "The backend.", when: success},
		{name: "host", kind: "str", doc: "Whose backups they are.", when: success},
		{name: "id", kind: "str", doc: "The backup that was made.", when: "after a backup"},
		{name: "time", kind: "str", doc: "Of what time it is, RFC 3339.", when: "after a backup"},
		{name: "volumes", kind: "list", elements: "str", doc: "What it has.", when: "after a backup"},
		{name: "files", kind: "int", doc: "How many files it has.", when: "after a backup"},
		{name: "bytes", kind: "int", doc: "Their size.", when: "after a backup"},
		{name: "stored_bytes", kind: "int", doc: "What was new to the repository.", when: "after a backup"},
		{name: "read_live", kind: "list", elements: "str",
			doc: "What is not of one instant.", when: "where something was read live"},
		{name: "name", kind: "str", doc: "The set's name.", when: success},
		{name: "duration_ms", kind: "int", doc: "How long the backup took, in milliseconds.", when: "after a backup"},
		{name: "restore_id", kind: "str", doc: "The backup that was restored.", when: "after a restore"},
		{name: "backup_time", kind: "str", doc: "Of what time that is, RFC 3339.", when: "after a restore"},
		{name: "restored", kind: "list", elements: "dict",
			doc: "What was compared and written of each volume, in bytes and files.", when: "after a restore"},
		{name: "timer", kind: "str", doc: "The timer of systemd that makes the backup.", when: "after schedule"},
		{name: "calendar", kind: "str", doc: "When it does.", when: "after schedule"},
		{name: "restore_ms", kind: "int", doc: "How long the restore took, in milliseconds.", when: "after a restore"},
	}),
	"snap_backup_info": {
		{name: "backups", kind: "list", elements: "dict",
			doc: "The backups, the newest first.", when: success, keys: []value{
				{name: "id", kind: "str", doc: "What restore_id takes."},
				{name: "host", kind: "str", doc: "Whose it is."},
				{name: "name", kind: "str", doc: "The set's name."},
				{name: "time", kind: "str", doc: "Of what time it is, RFC 3339."},
				{name: "volumes", kind: "list", elements: "str", doc: "What it has."},
				{name: "complete", kind: "bool", doc: "Whether all of it could be read and stored."},
				{name: "files", kind: "int", doc: "How many files it has."},
				{name: "bytes", kind: "int", doc: "Their size."},
				{name: "dated_in_future", kind: "bool", doc: "Whether its time is later than now, and tells nothing."},
			}},
	},
}

func join(lists ...[]value) (all []value) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// returned writes what a result has: first what every one has, then the module's own.
func returned(own []value) string {
	y := &yaml{}
	y.values(0, join(common, own))
	return y.String()
}

func (y *yaml) values(indent int, list []value) {
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
