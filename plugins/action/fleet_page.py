# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import datetime
import os
import tempfile

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.action import ActionBase

from ansible_collections.pcc.rewind.plugins.plugin_utils.fleet import Limits, VERDICTS, fleet, page

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

TEMPLATE = os.path.join(ROOT, "playbooks", "files", "fleet.html")


class ActionModule(ActionBase):
    """Writes the state of all servers on the controller, as a page and as JSON."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        self._supports_check_mode = True
        result = super(ActionModule, self).run(tmp, task_vars)
        unused, args = self.validate_argument_spec(argument_spec=dict(
            dest=dict(type="path", required=True), hosts=dict(type="list", elements="str", required=True),
            results=dict(type="str", required=True)))
        hostvars, hosts = task_vars["hostvars"], []
        for host in args["hosts"]:
            # raw_get does not search the variables for templates. A result contains none, and with thousands of hosts
            # the search would take long.
            variables = hostvars.raw_get(host)
            hosts.append((to_text(host), plain(variables.get(args["results"])),
                          limits(variables, lambda name, host=host: hostvars[host][name])))
        taken = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        report = fleet(hosts, len(task_vars["groups"]["all"]), taken)
        with open(TEMPLATE, "rb") as stream:
            text, data = page(to_text(stream.read()), report)
        page_file = os.path.join(args["dest"], "fleet.html")
        summary = ", ".join("%s: %d" % (verdict, report["counts"][verdict]) for verdict in VERDICTS)
        if self._task.check_mode:
            result.update(changed=True, counts=report["counts"], msg="%s; no page is written" % summary)
            return result
        replace(os.path.join(args["dest"], "fleet.json"), data)
        replace(page_file, text)
        result.update(changed=True, counts=report["counts"], page=page_file, msg="%s; %s" % (summary, page_file))
        return result


def limits(variables, templated):
    """Returns the limits for a server: the defaults, except where its variables have others. templated returns the value
    of a variable that is a template; it is worth what the server's other variables make of it."""
    given = {}
    for name in Limits.NAMES:
        value = variables.get("rewind_" + name)
        if value is None:
            continue
        value = templated("rewind_" + name) if "{{" in str(value) else value
        try:
            given[name] = float(value)
        except (TypeError, ValueError):
            raise AnsibleActionFail("rewind_%s is %s, which is no number" % (name, value))
    return Limits(**given)


def plain(value):
    """Returns a result with plain values instead of the types that newer versions of Ansible use. A warning becomes its
    text."""
    if isinstance(value, dict):
        return dict((to_text(key), plain(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    event = getattr(value, "event", value)
    return to_text(getattr(event, "msg", event))


def replace(path, text):
    """Replaces a file, so that a reader sees either the whole old file or the whole new one."""
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
