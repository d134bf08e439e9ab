# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import absolute_import, division, print_function

__metaclass__ = type

from ansible_collections.pcc.rewind.plugins.plugin_utils.program import ProgramAction


class ActionModule(ProgramAction):
    """Runs lvm_snapshot_info."""

    FAMILY = "lvm"
