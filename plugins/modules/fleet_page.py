#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Documentation; the work is done by the action plugin of the same name, on the controller."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: fleet_page
short_description: Writes one page of where every server stands
description:
  - Judges servers by what M(pcc.rewind.lvm_snapshot_info) said of each, and writes C(fleet.html), one page that needs nothing
    else, and the same as C(fleet.json). The worst come first.
  - A server is bad where a set, a merge, a rollback or the last backup went wrong, or a volume has no good backup that is
    young enough (C(rewind_backup_hours), a variable of the server or of all, 36 hours); warn where something is not known or
    will go wrong, as where a snapshot is C(rewind_cow_percent) full (80), or is full in C(rewind_full_hours) (24); unreachable;
    or ok.
version_added: 0.1.0
author:
  - The Rewind authors (@pcc)
options:
  dest:
    description: The directory on the controller, which is made where it is missing.
    type: path
    required: true
  hosts:
    description: The servers.
    type: list
    elements: str
    required: true
  results:
    description: The variable that each server's result of M(pcc.rewind.lvm_snapshot_info) was registered in.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: With check_mode no file is written.
  diff_mode:
    support: none
    description: It shows no differences.
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
  description: How many servers stand how, by verdict.
  type: dict
  returned: always
  sample: {bad: 1, unreachable: 0, warn: 2, ok: 97}
page:
  description: The file of the page.
  type: str
  returned: unless in check_mode
"""
