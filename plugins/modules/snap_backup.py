#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Written by modules/documentation from what the program says of itself; the action plugin of this name runs it.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: snap_backup
short_description: "Backs a set of LVM snapshots up, and restores a backup while the server goes on working"
version_added: "0.1.0"
author: "The Rewind authors (!UNKNOWN)"
description:
  - "Backs a set of LVM snapshots up, and restores a backup while the server goes on working."
  - >-
    A backup is read from the snapshots of a set, and shows the instant of that set. It is listed as complete only
    when it is known to be.
  - "A restore is written into new snapshots while the server goes on working, and merged if that is asked for."
  - >-
    A schedule needs no controller: a timer of systemd makes the backup with the arguments of the task, which are kept
    in /etc/rewind, where only root can read them. Before that the backup is planned once, so that the task fails now
    if the backup would fail at night.
requirements:
  - "root on the server (become), LVM 2.03.11 or later, systemd; no Python"
attributes:
  check_mode:
    support: full
    description: "Says what would be done, and changes nothing."
  diff_mode:
    support: full
    description: Shows what changes.
  async:
    support: none
    description: "What it does is a unit of systemd of its own, which goes on when the connection is lost."
options:
  action:
    type: str
    description:
      - >-
        backup: take a set, store it and remove it; restore: write a backup into a new set; check: say whether the
        repository is usable, whether the last backup is readable, and how old it is; schedule: have systemd make the
        backup from now on, at the times of calendar; unschedule: end that.
    choices: [backup, restore, check, schedule, unschedule]
    default: "backup"
  volumes:
    type: list
    elements: raw
    description:
      - >-
        What to back up: mount points, vg/lv, device paths, mappings as lvm_snapshot takes them; {path: /boot,
        snapshot: false} is read live, without a snapshot. For a restore: which volumes of the backup; default all.
        For a check: which volumes the last backup must have.
  backend:
    type: str
    description:
      - "mirror, rsync, restic, or a program in /usr/local/lib/rewind/backends."
    default: "mirror"
  backend_options:
    type: dict
    description:
      - >-
        What the backend needs: mirror and rsync path; restic repository, password_file. By hand:
        backend_options=repository=/srv/restic,password_file=/root/pw.
  backend_sha256:
    type: str
    description:
      - "What the program of a backend that is not built in must be, 64 hexadecimal digits."
  environment:
    type: dict
    description:
      - "Environment of the backend's tool, such as RESTIC_PASSWORD. Never shown."
      - It is never shown.
  environment_file:
    type: str
    description:
      - "A file of the same on the server, KEY=VALUE lines. It is read, never run."
  host:
    type: str
    description:
      - "Whose backups; default this server's name."
  stall_timeout:
    type: int
    description:
      - "Seconds after which a backend that makes no progress is given up, 10 to 86400."
    default: 1800
  name:
    type: str
    description:
      - "The set's name; default backup, or restore."
  keep:
    type: int
    description:
      - >-
        How many complete backups of the same name, volumes and host to keep, including this one. Older ones are
        removed once this one is known to be good. 0: keep all.
  size:
    type: str
    description:
      - >-
        COW space of each thick snapshot, written as for lvm_snapshot. By default a restore gives each snapshot as
        much as it is going to need, and without merge=true at least as much as lvm_snapshot would. It extends the
        snapshots before they fill.
  freeze_timeout:
    type: int
    description:
      - "Seconds that writes may wait while the set is taken, 1 to 600."
    default: 60
  lock_timeout:
    type: int
    description:
      - >-
        Seconds that a backup waits for other runs on the same volume group or in the same place, 0 to 86400; a
        scheduled backup waits for 6 hours by default.
    default: 120
  compare:
    type: str
    description:
      - >-
        How to find out whether a file has changed. recorded: by its inode number, size, mtime and ctime, which were
        recorded at the backup; content: every file is read.
    choices: [recorded, content]
    default: "recorded"
  calendar:
    type: str
    description:
      - >-
        When a scheduled backup is made, as in systemd.time(7): 04:00, Mon..Fri 22:30. A time that the clock skips
        when daylight-saving time begins, often 02:00, is one night without a backup.
    default: "04:00"
  spread:
    type: int
    description:
      - >-
        By how many seconds at most a scheduled backup begins later than calendar says, 0 to 86400. Each server has a
        delay of its own, which stays the same.
    default: 3600
  restore_id:
    type: str
    description:
      - >-
        The backup to restore: its id; for a backup of this host, 8 letters at the beginning of the id are enough.
        latest is the last complete backup.
    default: "latest"
  merge:
    type: bool
    description:
      - >-
        After a restore roll back to the new set, with the arguments of lvm_merge below. false leaves the set as it
        is, so that it can be looked at first; lvm_merge rolls back to it later.
    default: false
  services:
    type: list
    elements: str
    description:
      - >-
        Units to stop before and to start again after, in the order in which they start, such as postgresql,pccehr;
        they stop in the reverse one, and what they say themselves (After=) comes first. auto adds those that hold the
        volumes open.
  holders:
    type: str
    description:
      - >-
        What to do with other processes that hold the volumes open: fail names them; stop also stops the units of
        such, as auto does, and ends the others: SIGTERM, after 10 s SIGKILL. Those are not started again.
    choices: [fail, stop]
    default: "fail"
  when_busy:
    type: str
    description:
      - >-
        What to do if a volume cannot be closed: fail, or merge at its next activation, for a root volume the next
        boot. Nothing is stopped then, what is written until that boot is lost at it, and it cannot be taken back.
    choices: [fail, defer]
    default: "fail"
  wait:
    type: bool
    description:
      - Wait until the merge is finished. The volumes are in use before.
    default: false
  timeout:
    type: int
    description:
      - >-
        Seconds until the merge begins, 1 to 86400; half of them for writing out what is in memory, before the first
        service stops. To begin it there are 10 minutes, to start the services or to put all back at least 10.
    default: 600
  resnapshot:
    type: bool
    description:
      - "Take the same set again, for rehearsals. For thick volumes the services wait until the merge is finished."
    default: false
  postgresql:
    type: str
    description:
      - >-
        auto looks for PostgreSQL clusters that run: one that has files on the volumes and on others, too, is refused,
        and one that archives WAL or has standbys is warned of. none does not look.
    choices: [auto, none]
    default: "auto"
  start_services:
    type: bool
    description:
      - Start the services again; false leaves them stopped for a look.
    default: true
  detach:
    type: bool
    description:
      - >-
        Return as soon as the run has begun, with its id, for run; the run goes on, and changed says that it was
        begun. The same again while it is under way returns the same id. With --check nothing is begun, and there is
        no id.
    default: false
  run:
    type: str
    description:
      - >-
        The id of a run: begin none, but say how far that one is and, once it has ended, what came of it. That is kept
        for an hour after its end, until the next boot at most. All other arguments are left alone.
"""

EXAMPLES = r"""
- name: Back two volumes up
  pcc.rewind.snap_backup:
    action: backup
    volumes:
      - /dat
      - /pccehr
    backend_options:
      path: /srv/backup

- name: With restic
  pcc.rewind.snap_backup:
    action: backup
    volumes:
      - /dat
    backend: restic
    backend_options:
      repository: /srv/restic
      password_file: /root/restic.pw

- name: Without waiting for its end
  pcc.rewind.snap_backup:
    volumes:
      - /dat
    backend_options:
      path: /srv/backup
    detach: true

- name: "How far that run is, and what came of it"
  pcc.rewind.snap_backup:
    run: 20260131t235959-123456-0a1b2c

- name: What would be written
  pcc.rewind.snap_backup:
    action: restore
    backend_options:
      path: /srv/backup
  check_mode: true

- name: "Into set \"restore\", to look at it"
  pcc.rewind.snap_backup:
    action: restore
    backend_options:
      path: /srv/backup

- name: And roll back to it
  pcc.rewind.snap_backup:
    action: restore
    backend_options:
      path: /srv/backup
    merge: true
    services:
      - postgresql

- name: "Is the last backup readable, and how old"
  pcc.rewind.snap_backup:
    action: check
    backend_options:
      path: /srv/backup

- name: Every night
  pcc.rewind.snap_backup:
    action: schedule
    name: nightly
    calendar: "04:00"
    volumes:
      - /dat
      - /pccehr
    keep: 14
    backend_options:
      path: /srv/backup

- name: End the schedule
  pcc.rewind.snap_backup:
    action: unschedule
    name: nightly
"""

RETURN = r"""
msg:
  description: "What was done, or what is wrong."
  type: str
  returned: always
code:
  description: >-
    What kind of failure it is: busy, no_space, snapshot_invalid and others, which never change their meaning.
  type: str
  returned: on failure
hint:
  description: The next step.
  type: str
  returned: on failure
container:
  description: The kind of container. The volumes of a container belong to its host.
  type: str
  returned: on failure in a container
problems:
  description: "If several things are wrong, all of them, each with its code and msg."
  type: list
  elements: dict
  returned: on failure
rewind_version:
  description: The version of the program.
  type: str
  returned: always
commands:
  description: Every command that was run.
  type: list
  elements: dict
  returned: always
  contains:
    argv:
      description: The command and its arguments.
      type: list
      elements: str
      returned: always
    rc:
      description: Its exit code.
      type: int
      returned: always
    ms:
      description: "How long it took, in milliseconds."
      type: float
      returned: always
finished:
  description: Whether the run has ended.
  type: bool
  returned: with detach or run
run:
  description: The run that goes on.
  type: dict
  returned: "with detach or run, until it has ended"
  contains:
    id:
      description: "The id, for the argument run."
      type: str
      returned: always
    unit:
      description: Its unit of systemd.
      type: str
      returned: always
    kind:
      description: What kind of run it is.
      type: str
      returned: always
    title:
      description: What it does.
      type: str
      returned: always
    name:
      description: The set that it works on.
      type: str
      returned: if it works on a set
    begun:
      description: "When it began, RFC 3339."
      type: str
      returned: always
    label:
      description: What it is doing at the moment.
      type: str
      returned: always
    percent:
      description: "How much of that is done, if it is known."
      type: float
      returned: always
    bytes:
      description: "How much was read or written for that, if it is known."
      type: int
      returned: always
backend:
  description: The backend.
  type: str
  returned: success
host:
  description: The server whose backups they are.
  type: str
  returned: success
id:
  description: The id of the backup that was made.
  type: str
  returned: after a backup
time:
  description: "The instant of the backup, RFC 3339."
  type: str
  returned: after a backup
volumes:
  description: The volumes in the backup.
  type: list
  elements: str
  returned: after a backup
files:
  description: How many files it has.
  type: int
  returned: after a backup
bytes:
  description: Their size.
  type: int
  returned: after a backup
stored_bytes:
  description: How much of that was new to the repository.
  type: int
  returned: after a backup
read_live:
  description: What was read live and so does not show the instant.
  type: list
  elements: str
  returned: if something was read live
name:
  description: "The set's name."
  type: str
  returned: success
duration_ms:
  description: "How long the backup took, in milliseconds."
  type: int
  returned: after a backup
restore_id:
  description: The id of the backup that was restored.
  type: str
  returned: after a restore
backup_time:
  description: "The instant of that backup, RFC 3339."
  type: str
  returned: after a restore
restored:
  description: "What was compared and written of each volume, in bytes and files."
  type: list
  elements: dict
  returned: after a restore
timer:
  description: The timer of systemd that makes the backup.
  type: str
  returned: after schedule
calendar:
  description: When the timer does so.
  type: str
  returned: after schedule
restore_ms:
  description: "How long the restore took, in milliseconds."
  type: int
  returned: after a restore
"""
