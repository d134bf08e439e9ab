# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Judges servers by the results of lvm_snapshot_info, and makes the page of the fleet: one row for each server, the
worst first."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json

# The verdicts on a server, from the worst to the best.
VERDICTS = ("bad", "unreachable", "warn", "ok")


class Limits(object):
    """The limits beyond which the page shows a warning or a failure: the age of backups in hours, how full COW space
    and thin pools are in percent, and in how many hours a snapshot is going to be full."""

    NAMES = ("backup_hours", "cow_percent", "full_hours")

    def __init__(self, backup_hours=36, cow_percent=80, full_hours=24):
        self.backup_hours = backup_hours
        self.cow_percent = cow_percent
        self.full_hours = full_hours


def fleet(hosts, known, taken):
    """Returns the report of a fleet. hosts has the name, the result and the limits of each server; known is the number
    of servers in the inventory; taken is the time of the report (RFC 3339)."""
    rows = [host_row(host, result, limits) for host, result, limits in hosts]
    rows.sort(key=lambda r: (VERDICTS.index(r["verdict"]), r["host"]))
    counts = dict((verdict, 0) for verdict in VERDICTS)
    for r in rows:
        counts[r["verdict"]] += 1
    return dict(taken=taken, known=known, counts=counts, hosts=rows)


def page(template, report):
    """Returns the page, and the report as JSON. The report is inside a script element of the page, so every < is
    escaped: a text from a server can neither end that element nor begin another one."""
    data = json.dumps(report, separators=(",", ":"))
    return template.replace("{{ report }}", data.replace("<", "\\u003c")), data


def host_row(host, result, limits):
    """Returns what the page shows about a server."""
    if not isinstance(result, dict):
        return verdict_row(host, "unreachable", ["was not asked"])
    if result.get("unreachable"):
        return verdict_row(host, "unreachable", [one_line(result.get("msg"))])
    if result.get("failed") or "sets" not in result:
        return verdict_row(host, "bad", [one_line(result.get("msg") or "there is no result of lvm_snapshot_info")])
    bad, warn = [], []
    under_way = result.get("under_way") or []
    judge_server(result, set(u.get("kind") for u in under_way), bad, warn, limits)
    # A set that is being made or filled is not complete yet, and the run that works on it watches over its COW space.
    making = set(u.get("name") for u in under_way if u.get("kind") in ("snapshot", "backup", "restore"))
    sets = [judge_set(s, s["name"] in making, bad, warn, limits) for s in result["sets"]]
    for shot in result.get("unmanaged") or []:
        judge_snapshot(shot, bad, warn, limits)
    judge_backups(result.get("backups") or [], bad, warn, limits)
    for start in result.get("backups_not_begun") or []:
        bad.append("scheduled backup %s did not begin: journalctl -u %s says why" % (start["name"], start["unit"]))
    for schedule in result.get("backups_scheduled") or []:
        if schedule.get("problem"):
            bad.append("scheduled backup %s is not made: %s" % (schedule["name"], schedule["problem"]))
    out = verdict_row(host, "bad" if bad else "warn" if warn else "ok", bad + warn)
    out["version"] = result.get("rewind_version") or ""
    out["sets"] = sets
    out["backups"] = backup_ages(result.get("backups") or [])
    out["under_way"] = [u.get("title") for u in under_way]
    return dict((key, value) for key, value in out.items() if value not in ("", []))


def verdict_row(host, verdict, why):
    """Returns the row of a server with nothing but the verdict and the reasons."""
    return dict(host=host, verdict=verdict, why=why)


def judge_server(result, at_work, bad, warn, limits):
    """Adds what is wrong with the server as a whole to the lists bad and warn, as all functions judge_* do. at_work are
    the kinds of the runs that are under way."""
    host = result.get("host") or {}
    if not host.get("usable", True):
        warn.extend(host.get("problems") or ["it cannot be snapshotted"])
    for group in result.get("groups") or []:
        if group.get("partial"):
            bad.append("volume group %s lacks a disk" % group["vg"])
        for pool in group.get("pools") or []:
            if pool.get("problem"):
                bad.append("thin pool %s: %s" % (pool["pool"], pool["problem"]))
            for part in ("data", "metadata"):
                percent = pool.get(part + "_percent")
                if percent is not None and float(percent) >= limits.cow_percent:
                    warn.append("thin pool %s: %d %% of its %s are used" % (pool["pool"], float(percent), part))
    judge_rollback(result.get("last_rollback") or {}, at_work, bad, warn)
    warn.extend(result.get("warnings") or [])


def judge_rollback(last, at_work, bad, warn):
    """Judges the last rollback."""
    not_started = [f.get("unit") or "a service" for f in last.get("failed_services") or []]
    if not_started:
        warn.append("after the rollback to set %s these did not start, see whether they run: %s" % (
            last.get("name"), ", ".join(not_started)))
    waits = last.get("step") in ("started", "deferred")
    if last.get("outcome") == "unfinished" and not waits and not at_work & set(("rollback", "restore")):
        bad.append("the rollback to set %s was interrupted at step %s" % (last.get("name"), last.get("step")))


def judge_set(s, busy, bad, warn, limits):
    """Judges a set and returns it as the page shows it: its name, state and age in seconds, and for each member how
    full it is, in percent. busy says that a run works on the set."""
    if s["state"] == "bad" or s["state"] == "incomplete" and not busy:
        bad.append("set %s is %s" % (s["name"], s["state"]))
    out = dict(name=s["name"], state=s["state"], age=int(s["age_seconds"]), fill=[], merging=[])
    for shot in s.get("snapshots") or []:
        judge_snapshot(shot, bad, [] if busy else warn, limits)
        name = shot["snapshot"]
        percent = shot.get("cow_used_percent")
        if percent is not None and not shot.get("merge"):
            out["fill"].append([name, round(float(percent), 1), hours(shot.get("seconds_to_full"))])
        if shot.get("merge"):
            out["merging"].append([name, shot["merge"]["state"], shot["merge"].get("percent")])
    return out


def judge_snapshot(shot, bad, warn, limits):
    """Judges one snapshot."""
    merge = shot.get("merge") or {}
    if merge.get("state") == "failed":
        bad.append("the merge of %s failed" % shot["snapshot"])
    if merge.get("state") == "deferred":
        warn.append("the merge of %s waits for the next activation of its volume" % shot["snapshot"])
    if shot.get("problem"):
        bad.append("%s: %s" % (shot["snapshot"], shot["problem"]))
    elif not merge:
        judge_space(shot, warn, limits)


def judge_space(shot, warn, limits):
    """Judges how full the COW space of a snapshot is."""
    percent, left = shot.get("cow_used_percent"), hours(shot.get("seconds_to_full"))
    if percent is not None and float(percent) >= limits.cow_percent:
        warn.append("%s is %d %% full" % (shot["snapshot"], float(percent)))
    elif left is not None and left < limits.full_hours:
        warn.append("%s is full in %.1f h" % (shot["snapshot"], left))


def hours(seconds):
    """Returns a number of seconds in hours, rounded to a tenth, and None for None."""
    return None if seconds is None else round(int(seconds) / 3600.0, 1)


def judge_backups(jobs, bad, warn, limits):
    """Judges the last backups of all jobs."""
    for job in jobs:
        if job["state"] in ("failed", "interrupted"):
            bad.append("backup %s: %s" % (job["name"], one_line(job.get("msg") or "it was " + job["state"])))
    places = set(job_place(job) for job in jobs)
    for (place, volume), age in sorted(youngest_ages(jobs, job_place).items()):
        (name, backend), others = place[:2], [other for other in places if other != place and other[:2] == place[:2]]
        of_place = [job for job in jobs if job_place(job) == place and volume in volumes_of(job)]
        if age is None and any(job.get("good") for job in of_place):
            bad.append("the last good backup %s of %s with %s is dated later than now: look at the server's clock" % (
                name, volume, backend))
        elif age is None:
            bad.append("no good backup %s of %s with %s" % (name, volume, backend))
        elif age > limits.backup_hours:
            files = " ".join(str(job.get("file")) for job in of_place)
            hint = " (if that place is not used any more, remove %s)" % files if others else ""
            bad.append("no backup %s of %s with %s for %d h%s" % (name, volume, backend, age, hint))
    if not jobs:
        warn.append("no backup is known")


def job_place(job):
    """Returns what tells the places of backups apart: name, backend, and a hash of the backend's options."""
    return job["name"], job["backend"], job.get("place") or ""


def volumes_of(job):
    """Returns the volumes in the last good backup of a job, or those that it was asked for if there is none."""
    return (job.get("good") or {}).get("volumes") or job.get("volumes") or []


def backup_ages(jobs):
    """Returns, for each volume that is or should be backed up, the age of its youngest good backup in hours. None:
    there is none."""
    return [[volume, age] for (unused, volume), age in sorted(youngest_ages(jobs, lambda job: ()).items())]


def youngest_ages(jobs, key_of):
    """Returns the age of the youngest good backup in hours, by what key_of makes of the job and by the volume. None:
    there is no good backup."""
    found = {}
    for job in jobs:
        for volume in volumes_of(job):
            key = key_of(job), volume
            age, before = hours(job.get("age_seconds")), found.get(key)
            found[key] = age if before is None else before if age is None else min(age, before)
    return found


def one_line(text):
    """Returns a text on one line, with at most 300 characters."""
    return " ".join(str(text or "").split())[:300]
