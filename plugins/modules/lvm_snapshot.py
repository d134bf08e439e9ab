#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Written by modules/documentation from what the program says of itself; the action plugin of this name runs it.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: lvm_snapshot
short_description: "Takes, extends, mounts and removes a named set of LVM snapshots of one instant"
version_added: "0.1.0"
author: "The Rewind authors (!UNKNOWN)"
description:
  - "Takes, extends, mounts and removes a named set of LVM snapshots of one instant."
  - "The set is taken at one instant. If that fails, no snapshot is left behind."
  - "A set that exists is not taken again: the same task may be run as often as one likes."
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
  volumes:
    type: list
    elements: raw
    description:
      - >-
        What to take: mount points (/dat), vg/lv, device paths, or mappings of vg, lv, size, mountpoint, options. Not
        needed for a set that exists.
  name:
    type: str
    description:
      - "The set's name; the snapshot of vg00/dat in set snap is vg00/dat_snap."
    default: "snap"
  state:
    type: str
    description:
      - What the set should be.
    choices: [present, absent, mounted, unmounted]
    default: "present"
  size:
    type: str
    description:
      - >-
        COW space of each thick snapshot: 10g, 512m (a number alone is MiB), 20%ORIGIN, 30%FREE, 5%VG, 50%USED; never
        more than the volume can need. A larger size extends a set that exists. By default it depends on the free
        space. Thin snapshots have none.
  consistency:
    type: str
    description:
      - "set: all volumes at one instant, or fail; volume: each volume by itself."
    choices: [set, volume]
    default: "set"
  freeze_timeout:
    type: int
    description:
      - "Seconds that writes may wait, 1 to 600. At the limit the writes go on, and no set is taken."
    default: 60
  on_invalid:
    type: str
    description:
      - >-
        What to do with an overflowed set: fail, or replace it by a new set of what the volumes hold now. A set that
        was filled with a backup is never replaced.
    choices: [fail, replace]
    default: "fail"
  mountpoint:
    type: str
    description:
      - >-
        For state=mounted: the mount point of a set with one volume, or else the directory below which each volume
        gets a mount point. By default below /run/rewind/mounts.
  mountpoint_create:
    type: bool
    description:
      - Make mount points that do not exist.
    default: true
  options:
    type: str
    description:
      - "Mount options in addition to ro, noatime, and for XFS nouuid; rw replaces ro."
  postgresql:
    type: str
    description:
      - >-
        auto looks for PostgreSQL clusters that run, and refuses a set that has a part of one and lacks another, such
        as its WAL on a volume of its own. none does not look.
    choices: [auto, none]
    default: "auto"
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
- name: "Take set \"snap\""
  pcc.rewind.lvm_snapshot:
    volumes:
      - /dat
      - /pccehr

- name: Say what that would do
  pcc.rewind.lvm_snapshot:
    volumes:
      - /dat
      - /pccehr
  check_mode: true
  diff: true

- name: "Take another, or extend it to 10 GiB of COW space"
  pcc.rewind.lvm_snapshot:
    name: before-upgrade
    volumes:
      - vg00/dat
    size: 10g

- name: "Mount set \"snap\", read-only"
  pcc.rewind.lvm_snapshot:
    state: mounted
    mountpoint: /mnt/snap

- name: Remove it
  pcc.rewind.lvm_snapshot:
    state: absent
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
name:
  description: "The set's name."
  type: str
  returned: success
id:
  description: "The set's id, which no other set of the same name has."
  type: str
  returned: success
time:
  description: "The set's instant, RFC 3339."
  type: str
  returned: success
consistency:
  description: "Set if all members show one instant, volume if each shows an instant of its own."
  type: str
  returned: success
pause_ms:
  description: "How long writes waited at most, in milliseconds."
  type: int
  returned: when a set was taken
snapshots:
  description: The members.
  type: list
  elements: dict
  returned: success
  contains:
    volume:
      description: "The volume, vg/lv."
      type: str
      returned: always
    snapshot:
      description: "Its snapshot, vg/lv."
      type: str
      returned: always
    cow_bytes:
      description: COW space of a thick snapshot.
      type: int
      returned: always
    cow_used_bytes:
      description: How much of that is used.
      type: int
      returned: always
    thin:
      description: Whether the volume is thin.
      type: bool
      returned: always
    state:
      description: "The snapshot's state, as LVM calls it."
      type: str
      returned: always
    method:
      description: How writes to the volume were paused.
      type: str
      returned: always
    pause_ms:
      description: "How long writes waited, in milliseconds."
      type: float
      returned: always
    mountpoint:
      description: Where the snapshot is mounted.
      type: str
      returned: always
"""
