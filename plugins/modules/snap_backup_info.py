#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Written by modules/documentation from what the program says of itself; the action plugin of this name runs it.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: snap_backup_info
short_description: Lists the backups of a server. It changes none of them
version_added: "0.1.0"
author: "The Rewind authors (!UNKNOWN)"
description:
  - Lists the backups of a server. It changes none of them.
  - Like every run it first settles what an interrupted run has left on the server.
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
  all_hosts:
    type: bool
    description:
      - Also the backups of other servers in the same repository.
    default: false
"""

EXAMPLES = r"""
- name: "List this server's backups"
  pcc.rewind.snap_backup_info:
    backend_options:
      path: /srv/backup

- name: List the backups of all servers
  pcc.rewind.snap_backup_info:
    backend: restic
    backend_options:
      repository: /srv/restic
      password_file: /root/restic.pw
    all_hosts: true
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
backups:
  description: "The backups, the newest first."
  type: list
  elements: dict
  returned: success
  contains:
    id:
      description: "The backup's id, for the argument restore_id."
      type: str
      returned: always
    host:
      description: The server whose backup it is.
      type: str
      returned: always
    name:
      description: "The set's name."
      type: str
      returned: always
    time:
      description: "The instant of the backup, RFC 3339."
      type: str
      returned: always
    volumes:
      description: The volumes in the backup.
      type: list
      elements: str
      returned: always
    complete:
      description: Whether all of it could be read and stored.
      type: bool
      returned: always
    files:
      description: How many files it has.
      type: int
      returned: always
    bytes:
      description: Their size.
      type: int
      returned: always
    dated_in_future:
      description: "Whether its time is later than now, so that nobody knows how old it is."
      type: bool
      returned: always
"""
