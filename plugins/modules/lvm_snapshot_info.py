#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Written by modules/documentation from what the program says of itself; the action plugin of this name runs it.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: lvm_snapshot_info
short_description: >-
  Lists sets of LVM snapshots, runs under way and the results of the last backups, and says what this server can do
version_added: "0.1.0"
author: "The Rewind authors (!UNKNOWN)"
description:
  - >-
    Lists sets of LVM snapshots, runs under way and the results of the last backups, and says what this server can do.
requirements:
  - "root on the server (become), LVM 2.03.11 or later, systemd; no Python"
attributes:
  check_mode:
    support: full
    description: "Says what would be done, and changes nothing."
  diff_mode:
    support: none
    description: Shows what changes.
  async:
    support: none
    description: "What it does is a unit of systemd of its own, which goes on when the connection is lost."
options:
  name:
    type: str
    description:
      - "Only the set of that name, and its last rollback."
  vg:
    type: str
    description:
      - "Only what is in that volume group, and no backups."
  textfile:
    type: str
    description:
      - >-
        A file in which to write the same as metrics for the node exporter of Prometheus, such as
        /var/lib/prometheus/node-exporter/rewind.prom. Nothing else is changed.
"""

EXAMPLES = r"""
- name: Everything
  pcc.rewind.lvm_snapshot_info: {}

- name: "One set, and its last rollback"
  pcc.rewind.lvm_snapshot_info:
    name: snap

- name: As data
  pcc.rewind.lvm_snapshot_info: {}
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
host:
  description: "What this server can do: usable, problems, kernel, kernel_modules, lvm_version, systemd, container."
  type: dict
  returned: success
groups:
  description: "The volume groups with their sizes, room and thin pools."
  type: list
  elements: dict
  returned: success
sets:
  description: >-
    Each set with its state, age and snapshots; for an incomplete one the volumes whose snapshots are missing, where
    that is known; for one that was filled with a backup, that backup's id and time.
  type: list
  elements: dict
  returned: success
unmanaged:
  description: Snapshots that belong to no set.
  type: list
  elements: dict
  returned: success
mounts:
  description: "File systems on logical volumes, with the layers between them."
  type: list
  elements: dict
  returned: success
last_rollback:
  description: "The last rollback, and how far it is."
  type: dict
  returned: success
under_way:
  description: Every run at work on this server now.
  type: list
  elements: dict
  returned: success
backups:
  description: >-
    The jobs, which are the backups of one name, one list of volumes and one place, with their last results.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: "The set's name."
      type: str
      returned: always
    backend:
      description: The backend.
      type: str
      returned: always
    host:
      description: The server whose backups they are.
      type: str
      returned: always
    volumes:
      description: The volumes to be backed up.
      type: list
      elements: str
      returned: always
    state:
      description: "The state of the last run: ok, failed, running, or interrupted if it was killed."
      type: str
      returned: always
    begun:
      description: "When the last run began, RFC 3339."
      type: str
      returned: always
    ended:
      description: "When the last run ended, RFC 3339."
      type: str
      returned: always
    code:
      description: What kind of failure it was.
      type: str
      returned: always
    msg:
      description: Why the last run failed.
      type: str
      returned: always
    age_seconds:
      description: How old the last good backup is; null if there is none.
      type: int
      returned: always
    good:
      description: "The last good backup: its id, time, volumes, files, bytes and stored_bytes."
      type: dict
      returned: always
backups_not_begun:
  description: >-
    Scheduled backups whose unit was started and began no backup, because their program or their arguments could not
    be read.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: "The set's name."
      type: str
      returned: always
    unit:
      description: The unit of systemd. Its log says why.
      type: str
      returned: always
    since:
      description: "When the unit was started, RFC 3339."
      type: str
      returned: always
backups_scheduled:
  description: "The backups that systemd makes on this server, or would if their timers were active."
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: "The set's name."
      type: str
      returned: always
    timer:
      description: The timer of systemd.
      type: str
      returned: always
    next:
      description: "When the backup is due next, RFC 3339; empty: never again."
      type: str
      returned: always
    problem:
      description: "Why it is not made although it is scheduled: its timer is not active."
      type: str
      returned: always
program_dir:
  description: The directory in which programs are kept and from which they run.
  type: str
  returned: success
"""
