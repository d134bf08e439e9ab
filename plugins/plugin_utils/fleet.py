# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Judges servers by what lvm_snapshot_info said of each: one row for a server, the worst first."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

# The verdicts, the worst first.
VERDICTS = ("bad", "unreachable", "warn", "ok")


class Limits(object):
    """From where on something is not well."""

    def __init__(self, backup_hours=36, cow_percent=80, full_hours=24):
        self.backup_hours = backup_hours
        self.cow_percent = cow_percent
        self.full_hours = full_hours


def fleet(results, limits, taken):
    """The report of a fleet: results by host, which are what was registered, and when (RFC 3339)."""
    rows = [row(host, result, limits) for host, result in results]
    rows.sort(key=lambda r: (VERDICTS.index(r["verdict"]), r["host"]))
    counts = dict((verdict, 0) for verdict in VERDICTS)
    for r in rows:
        counts[r["verdict"]] += 1
    return dict(taken=taken, counts=counts, hosts=rows)


def row(host, result, limits):
    """What the page shows of a server."""
    if not isinstance(result, dict):
        return shown(host, "unreachable", ["was not asked"])
    if result.get("unreachable"):
        return shown(host, "unreachable", [one_line(result.get("msg"))])
    if result.get("failed") or "sets" not in result:
        return shown(host, "bad", [one_line(result.get("msg") or "there is no result of lvm_snapshot_info")])
    bad, warn = [], []
    server(result, bad, warn, limits)
    sets = [snapshot_set(s, bad, warn, limits) for s in result["sets"]]
    for shot in result.get("unmanaged") or []:
        snapshot(shot, bad, warn, limits)
    backups(result.get("backups") or [], bad, warn, limits)
    out = shown(host, "bad" if bad else "warn" if warn else "ok", bad + warn)
    out["version"] = result.get("rewind_version") or ""
    out["sets"] = sets
    out["merging"] = sum(len(s["merging"]) for s in sets)
    out["backups"] = volumes(result.get("backups") or [])
    out["under_way"] = [u.get("title") for u in result.get("under_way") or []]
    return dict((key, value) for key, value in out.items() if value not in ("", [], 0))


def shown(host, verdict, why):
    return dict(host=host, verdict=verdict, why=why)


def server(result, bad, warn, limits):
    """What is wrong with the server as a whole."""
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
    last = result.get("last_rollback") or {}
    if last.get("failures"):
        bad.append("after the rollback to set %s not everything started" % last.get("set"))
    elif last.get("outcome") == "unfinished" and not result.get("under_way") and last.get("step") not in ("started", "deferred"):
        bad.append("the rollback to set %s was interrupted at step %s" % (last.get("set"), last.get("step")))
    warn.extend(result.get("warnings") or [])


def snapshot_set(s, bad, warn, limits):
    """A set as the page shows it: its name, state and age in seconds, and of each member how full it is, in percent."""
    if s["state"] in ("bad", "incomplete"):
        bad.append("set %s is %s" % (s["name"], s["state"]))
    out = dict(name=s["name"], state=s["state"], age=int(s["age_seconds"]), fill=[], merging=[])
    for shot in s.get("snapshots") or []:
        snapshot(shot, bad, warn, limits)
        name = shot["snapshot"]
        percent = shot.get("cow_used_percent")
        if percent is not None and not shot.get("merge"):
            out["fill"].append([name, round(float(percent), 1), hours(shot.get("seconds_to_full"))])
        if shot.get("merge"):
            out["merging"].append([name, shot["merge"]["state"], shot["merge"].get("percent")])
    return out


def snapshot(shot, bad, warn, limits):
    merge = shot.get("merge") or {}
    if merge.get("state") == "failed":
        bad.append("the merge of %s failed" % shot["snapshot"])
    if merge.get("state") == "deferred":
        warn.append("the merge of %s waits for the next activation of its volume" % shot["snapshot"])
    if shot.get("problem"):
        bad.append("%s: %s" % (shot["snapshot"], shot["problem"]))
    elif not merge:
        filling(shot, warn, limits)


def filling(shot, warn, limits):
    percent, left = shot.get("cow_used_percent"), hours(shot.get("seconds_to_full"))
    if percent is not None and float(percent) >= limits.cow_percent:
        warn.append("%s is %d %% full" % (shot["snapshot"], float(percent)))
    elif left is not None and left < limits.full_hours:
        warn.append("%s is full in %.1f h" % (shot["snapshot"], left))


def hours(seconds):
    return None if seconds is None else round(int(seconds) / 3600.0, 1)


def backups(jobs, bad, warn, limits):
    for job in jobs:
        if job["state"] in ("failed", "interrupted"):
            bad.append("backup %s: %s" % (job["name"], one_line(job.get("msg") or "it was " + job["state"])))
    for volume, age in volumes(jobs):
        if age is not None and age > limits.backup_hours:
            bad.append("no backup of %s for %d h" % (volume, age))
        elif age is None and not bad:
            bad.append("no good backup of %s" % volume)
    if not jobs:
        warn.append("no backup is known")


def volumes(jobs):
    """Of each volume that is backed up, or was asked for, how many hours old the youngest good backup is; None: there is none."""
    ages = {}
    for job in jobs:
        good = job.get("good") or {}
        for volume in good.get("volumes") or job.get("volumes") or []:
            age = hours(job.get("age_seconds"))
            before = ages.get(volume)
            ages[volume] = age if before is None else before if age is None else min(age, before)
    return [[volume, ages[volume]] for volume in sorted(ages)]


def one_line(text):
    return " ".join(str(text or "").split())[:300]
