#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Written by modules/documentation from what the program says of itself; the action plugin of this name runs it.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: lvm_snapshot_info
short_description: >-
  Says what sets of LVM snapshots there are, what is under way, what came of the last backups, and what this server
  can do
version_added: "0.1.0"
author: "The Rewind authors (!UNKNOWN)"
description:
  - >-
    Says what sets of LVM snapshots there are, what is under way, what came of the last backups, and what this server
    can do.
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
        A file to write the same to as metrics for Prometheus' node exporter, such as
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
  description: "What kind of container this is, whose volumes are its host's."
  type: str
  returned: on failure in a container
problems:
  description: "Where several things are wrong, each with a code and msg of its own."
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
      description: The command and its words.
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
    Each set with its state, age and snapshots; one that was filled with a backup with its backup: id and time.
  type: list
  elements: dict
  returned: success
unmanaged:
  description: Snapshots that belong to no set.
  type: list
  elements: dict
  returned: success
mounts:
  description: "File systems on logical volumes, with what lies between."
  type: list
  elements: dict
  returned: success
last_rollback:
  description: "The last rollback, and how far it has come."
  type: dict
  returned: success
under_way:
  description: Every run at work on this server now.
  type: list
  elements: dict
  returned: success
backups:
  description: "What came of the last backups of each job: a name, a backend and its volumes."
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
      description: Whose backups they are.
      type: str
      returned: always
    volumes:
      description: What is to be backed up.
      type: list
      elements: str
      returned: always
    state:
      description: "What the last run came to: ok, failed, running, or interrupted where it was killed."
      type: str
      returned: always
    begun:
      description: "When that began, RFC 3339."
      type: str
      returned: always
    ended:
      description: "When it ended, RFC 3339."
      type: str
      returned: always
    code:
      description: What kind of failure it was.
      type: str
      returned: always
    msg:
      description: Why it failed.
      type: str
      returned: always
    age_seconds:
      description: How old the last good backup is; null where there is none.
      type: int
      returned: always
    good:
      description: "The last good backup: its id, time, volumes, files, bytes and stored_bytes."
      type: dict
      returned: always
backups_not_begun:
  description: >-
    Scheduled backups whose last start came to none, because their program or their arguments could not be read.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: "The set's name."
      type: str
      returned: always
    unit:
      description: "The unit of systemd, whose journal says why."
      type: str
      returned: always
    since:
      description: "When it was started, RFC 3339."
      type: str
      returned: always
backups_scheduled:
  description: The backups that systemd makes on this server.
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
      description: "When it is due next, RFC 3339; empty: never again."
      type: str
      returned: always
program_dir:
  description: The directory that programs are kept in and run from.
  type: str
  returned: success
"""
