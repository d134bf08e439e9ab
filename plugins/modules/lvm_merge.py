#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Written by modules/documentation from what the program says of itself; the action plugin of this name runs it.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: lvm_merge
short_description: "Rolls volumes back to a set of LVM snapshots: all of them, or none"
version_added: "0.1.0"
author: "The Rewind authors (!UNKNOWN)"
description:
  - "Rolls volumes back to a set of LVM snapshots: all of them, or none."
  - >-
    Everything is checked before the first service stops, and a refusal changes nothing. Once LVM has begun to merge,
    the rollback goes on to its end, also after a power cut.
  - >-
    The merge uses up the snapshots. What was written since the set was taken is lost; with check_mode and diff the
    module says how much that is.
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
  name:
    type: str
    description:
      - The set to roll back to; default snap.
  snapshots:
    type: list
    elements: str
    description:
      - "Instead of a set: the snapshots to roll back to, as vg/lv; they may have been made by hand."
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
- name: What would be thrown away
  pcc.rewind.lvm_merge:
    services:
      - postgresql
  check_mode: true
  diff: true

- name: "Roll back to set \"snap\""
  pcc.rewind.lvm_merge:
    services:
      - postgresql

- name: "Stop whatever holds the volumes open, and wait for the merge"
  pcc.rewind.lvm_merge:
    name: before-upgrade
    services:
      - auto
    wait: true

- name: Roll back to snapshots made by hand
  pcc.rewind.lvm_merge:
    snapshots:
      - vg00/dat_snap
      - vg00/pccehr_snap
    services:
      - postgresql
      - pccehr
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
  description: "The set's name, or the snapshots' names."
  type: str
  returned: success
id:
  description: "The set's id, which no other set of the same name has."
  type: str
  returned: success
state:
  description: The state of the volume that is furthest behind; see volumes.
  type: str
  returned: success
discarded_since:
  description: "The set's instant, RFC 3339. What was written after it is lost."
  type: str
  returned: success
downtime_ms:
  description: "From the moment the first service was told to stop until the last was started, in milliseconds."
  type: int
  returned: when services were stopped
services:
  description: The units that were stopped.
  type: list
  elements: str
  returned: success
failed_services:
  description: "Units that did not start, and why."
  type: list
  elements: dict
  returned: on failure
holders:
  description: Who holds a volume open.
  type: list
  elements: dict
  returned: when something does
  contains:
    pid:
      description: The process.
      type: int
      returned: always
    command:
      description: Its command.
      type: str
      returned: always
    unit:
      description: Its unit of systemd.
      type: str
      returned: always
    path:
      description: What it holds open.
      type: str
      returned: always
volumes:
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
    state:
      description: "Merging, merged, deferred, waiting or not_rolled_back."
      type: str
      returned: always
    percent:
      description: How much of the snapshot is merged.
      type: float
      returned: always
    discarded_bytes:
      description: >-
        How much was written to the volume since the set was taken, at most; null for a thin volume, of which that is
        not known.
      type: int
      returned: always
"""
