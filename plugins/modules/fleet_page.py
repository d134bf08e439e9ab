#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Documentation; the work is done by the action plugin of the same name, on the controller."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: fleet_page
short_description: Writes a page with the state of every server
description:
  - Judges each server by its result of M(pcc.rewind.lvm_snapshot_info), and writes C(fleet.html), a page that needs no other
    file, and the same data as C(fleet.json). The worst servers come first.
  - The verdict is bad if a set, a merge, a rollback or the last backup failed, or if a volume has no good backup of the last
    C(rewind_backup_hours) hours (36), which may be a variable of the server.
  - The verdict is warn if something is not known or is going to fail, such as a snapshot that is C(rewind_cow_percent) percent
    full (80) or will be full within C(rewind_full_hours) hours (24).
  - Otherwise it is unreachable or ok.
version_added: 0.1.0
author:
  - The Rewind authors (@pcc)
options:
  dest:
    description: The directory on the controller for the files. It is made if it does not exist.
    type: path
    required: true
  hosts:
    description: The servers.
    type: list
    elements: str
    required: true
  results:
    description: The name of the variable in which each server's result of M(pcc.rewind.lvm_snapshot_info) is registered.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: With check_mode no file is written.
  diff_mode:
    support: none
    description: The module shows no differences.
"""

EXAMPLES = r"""
- name: Look where every server stands
  hosts: all
  become: true
  gather_facts: false
  ignore_unreachable: true
  tasks:
    - name: Ask the server
      pcc.rewind.lvm_snapshot_info:
      register: info
      failed_when: false

    - name: Write the page
      pcc.rewind.fleet_page:
        dest: /srv/www/rewind
        hosts: "{{ ansible_play_hosts_all }}"
        results: info
      run_once: true
"""

RETURN = r"""
counts:
  description: The number of servers by verdict.
  type: dict
  returned: always
  sample: {bad: 1, unreachable: 0, warn: 2, ok: 97}
page:
  description: The path of the page.
  type: str
  returned: unless in check_mode
"""
