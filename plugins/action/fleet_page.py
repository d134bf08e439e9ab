# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import datetime
import json
import os
import tempfile

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.action import ActionBase

from ansible_collections.pcc.rewind.plugins.plugin_utils.fleet import Limits, fleet

TEMPLATE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "playbooks", "files", "fleet.html")


class ActionModule(ActionBase):
    """Writes where a fleet stands, on the controller: a page, and the same as JSON."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        self._supports_check_mode = True
        result = super(ActionModule, self).run(tmp, task_vars)
        unused, args = self.validate_argument_spec(argument_spec=dict(
            dest=dict(type="path", required=True), hosts=dict(type="list", elements="str", required=True),
            results=dict(type="str", required=True), backup_hours=dict(type="int", default=36),
            cow_percent=dict(type="int", default=80), full_hours=dict(type="int", default=24)))
        known = task_vars["hostvars"]
        limits = Limits(args["backup_hours"], args["cow_percent"], args["full_hours"])
        # raw_get: nothing in a result is a template, and thousands of hosts would be looked through for one.
        results = [(to_text(host), known.raw_get(host).get(args["results"])) for host in args["hosts"]]
        taken = datetime.datetime.utcnow().replace(microsecond=0).isoformat() + "Z"
        report = fleet(results, limits, taken)
        data = json.dumps(report, default=to_text, separators=(",", ":"))
        with open(TEMPLATE, "rb") as stream:
            page = to_text(stream.read()).replace("{{ report }}", data.replace("<", "\\u003c"))
        dest = os.path.expanduser(args["dest"])
        if not self._task.check_mode:
            replace(os.path.join(dest, "fleet.json"), data)
            replace(os.path.join(dest, "fleet.html"), page)
        result.update(changed=True, counts=report["counts"], page=os.path.join(dest, "fleet.html"), msg=", ".join(
            "%s: %d" % (verdict, count) for verdict, count in sorted(report["counts"].items())))
        return result


def replace(path, text):
    """A reader sees the old file or the new one."""
    directory = os.path.dirname(path)
    try:
        if not os.path.isdir(directory):
            os.makedirs(directory)
        handle, new = tempfile.mkstemp(dir=directory)
        with os.fdopen(handle, "wb") as stream:
            stream.write(to_bytes(text))
        os.chmod(new, 0o644)
        os.rename(new, path)
    except (OSError, IOError) as problem:
        raise AnsibleActionFail("%s cannot be written: %s" % (path, problem))
