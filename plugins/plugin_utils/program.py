# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Runs Rewind's programs on a server, which keeps them from one task to the next.

A task is one call: the server's shell looks for the program among those that are kept, by the hash of its content, and
hands it the arguments. Where it is not there, the shell says so, a second call brings it, compressed, and the first is
made again. No Python is needed on the server.

A call whose work takes long is answered with the id of the run on the server, and asked for by that from then on: how far
it is can be shown, and one run is made whatever happens to the connection in between.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json
import os
import shlex
import tempfile
import time

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Where programs are kept, as core/journey has it: the first directory that programs can be run from.
DIRECTORIES = "/var/lib/rewind/bin /usr/local/lib/rewind /opt/rewind"

FILES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "files")

# The architectures by the kernel's names (uname -m).
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

# What the shell answers begins so, if no program does.
ANSWER = "rewind-answer:"

# The first line of what is sent. A connection that sends nothing is known by it.
GREETING = "rewind"

# The scripts are one line each, which every login shell hands on as it is.
#
# no ANSWER: nothing was done. What is sent is read to its end, or ssh takes the server for lost; of a terminal there is none.
# safe DIRECTORY [FILE]: only root can have put there what is there, and only root can change it.
SCRIPT = (
    'no() { [ -t 0 ] || cat >/dev/null; echo %(answer)s "$@"; exit; }; '
    'safe() { s=$(readlink -f $1) || return; shift; while [ "$s" ]; do set -- "$@" "$s"; s=${s%%/*}; done; '
    '[ "$(find / "$@" -prune -user 0 ! -perm /022 2>/dev/null | wc -l)" -eq $(($# + 1)) ]; }; '
    'l=; [ -t 0 ] || IFS= read -r l; [ "$l" = %(greeting)s ] || no nothing; ')

RUN = SCRIPT + (
    'for d in %(directories)s; do for h in %(hashes)s; do p=$d/rewind-$h; '
    '[ -x $p ] && safe $d $p && exec $p %(name)s -; done; done; no missing $(uname -m) $(id -u)')

# Each place is tried by running the file there while it is empty, which succeeds unless the mount is noexec.
KEEP = SCRIPT + (
    't=; for d in %(directories)s; do [ -d ${d%%rewind*} ] && (umask 077; mkdir -p $d) && safe $d && '
    't=$(mktemp $d/rewind-new.XXXXXXXX) && chmod 700 $t && $t && break; rm -f "$t"; t=; done; [ "$t" ] || no noplace; '
    'gzip -dc >$t && [ "$(sha256sum <$t)" = "%(hash)s  -" ] || { rm -f $t; no torn; }; '
    'sync $t; mv -f $t $d/rewind-%(hash)s && sync $d && no kept')


# How long a call waits for the end of a run, in seconds, before it is asked for again.
PATIENCE = 10

# How often in a row a run is asked for in vain, PATIENCE apart.
LOST = 6


class Failure(Exception):
    """Why there is no result of the program."""


class ProgramAction(ActionBase):
    """The action of every module of this collection. FAMILY is the file that the module's program is in."""

    FAMILY = None

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        self._supports_check_mode = True
        self._supports_async = False
        self._sends = getattr(self._connection, "has_pipelining", False)
        name = self._task.action.split(".")[-1]
        if self._task.async_val:
            return dict(failed=True, changed=False, msg=(
                "%s cannot be run with async: what it does is a unit of systemd of its own, which goes on when the connection "
                "is lost, and the same task attaches to it again. Leave async out; detach: true does not wait for it." % name))
        result = super(ProgramAction, self).run(tmp, task_vars)
        try:
            result.update(self._followed(name, self._task.delegate_to or task_vars["inventory_hostname"]))
        except Failure as problem:
            result.update(failed=True, changed=False, msg="%s: %s" % (name, problem))
        return result

    def _followed(self, name, host):
        """The program's result; while a run goes on that the task waits for, how far it is is shown."""
        arguments = self._arguments()
        if arguments.get("run"):
            return self._asked(name, arguments, host)
        if boolean(arguments.get("detach") or False, strict=False):
            return self._answer(name, arguments)
        arguments["_ansible_patience"] = PATIENCE
        answer, run, shown, vain = self._answer(name, arguments), None, None, 0
        while answer.get("finished") is False:
            if answer.get("failed"):  # to ask failed, not the run
                vain += 1
                if vain == LOST:
                    break
                time.sleep(PATIENCE)
            else:
                run, vain = answer["run"], 0
                shown = self._show(host, run, shown)
            answer = self._asked(name, dict(arguments, run=run["id"]), host)
        answer.pop("finished", None)
        return answer

    def _show(self, host, run, shown):
        """Says how far a run is where that is news: another label, or another tenth."""
        percent = run.get("percent")
        news = (run.get("label"), None if percent is None else int(percent) // 10)
        if news != shown and not self._task.no_log:
            words = [run["title"]] + [run["label"]] * bool(run.get("label"))
            done = "" if percent is None else " %d %%" % percent
            Display().display("%s: %s%s" % (host, ": ".join(words), done), stderr=True)
        return news

    def _asked(self, name, arguments, host):
        """How far the run is, also if the server cannot be reached for a moment: the run goes on meanwhile."""
        for left in reversed(range(LOST)):
            try:
                return self._answer(name, arguments)
            except AnsibleError as problem:
                # Before ansible-core 2.19 a sudo that is slow is an error of this kind alone.
                lost = isinstance(problem, AnsibleConnectionFailure) or "privilege escalation" in to_text(problem)
                if left == 0 or not lost:
                    raise
                Display().warning("%s is asked again in %d s: %s" % (host, PATIENCE, problem))
                time.sleep(PATIENCE)
                self._reset()

    def _reset(self):
        """Has the next call make a new connection; paramiko's makes one at once."""
        try:
            self._connection.reset()
        except AnsibleConnectionFailure:
            pass

    def _answer(self, name, arguments):
        programs = built(self.FAMILY)
        words = dict(answer=ANSWER, greeting=GREETING, directories=DIRECTORIES, name=name)
        words["hashes"] = " ".join(sorted(program["sha256"] for program in programs.values()))
        run, arguments = RUN % words, to_bytes(json.dumps(arguments))
        answer = self._call(run, arguments)
        if not isinstance(answer, dict):
            self._keep(programs, words, answer)
            answer = self._call(run, arguments)
        if not isinstance(answer, dict):
            raise Failure("the program was sent to the server, and is not there (%s)" % " ".join(answer))
        return answer

    def _keep(self, programs, words, missing):
        """Sends the program that the server says it lacks, and has it kept there."""
        if len(missing) != 3 or missing[0] != "missing":
            raise Failure("the server's shell does not say what it lacks (%s)" % " ".join(missing))
        machine, user = missing[1:]
        if user != "0":
            raise Failure("it must be root on the server: become: true")
        if machine not in ARCHITECTURES:
            raise Failure("there is no program for this server's processor (%s): there are %s" % (
                machine, ", ".join(sorted(set(ARCHITECTURES.values())))))
        program = programs[ARCHITECTURES[machine]]
        with open(os.path.join(FILES, program["file"]), "rb") as stream:
            packed = stream.read()
        answer = self._call(KEEP % dict(words, hash=program["sha256"]), packed)
        places = DIRECTORIES.replace(" ", ", ")
        if answer == ["noplace"]:
            raise Failure("no program can be kept and run on the server: each of %s is on a file system that is mounted noexec or "
                          "read-only, is full, or can be changed by others than root" % places)
        if answer != ["kept"]:
            raise Failure("the program did not arrive whole; the server needs gzip, sha256sum, mktemp, find and readlink, and "
                          "%d bytes of room in one of %s" % (program["size"], places))

    def _arguments(self):
        """What the program reads: the task's arguments, and what Ansible says beside them."""
        arguments = json.loads(json.dumps(self._task.args, default=to_text))
        arguments.update(
            _ansible_check_mode=bool(self._task.check_mode), _ansible_diff=bool(self._task.diff),
            _ansible_no_log=bool(self._task.no_log), _ansible_verbosity=Display().verbosity)
        return arguments

    def _call(self, script, data):
        """Runs a script on the server. Returns the program's result, or the words of the shell's answer."""
        data = to_bytes(GREETING + "\n") + data
        if self._sends:
            out = self._run(script, data)
            answer = understood(out)
            if answer != ["nothing"]:
                return answer
            self._sends = False  # this connection has no way to send to a program: it sends files
        return understood(self._run_with_file(script, data))

    def _run(self, command, data=None):
        environment = self._compute_environment_string()
        if environment:
            command = "%s /bin/sh -c %s" % (environment, shlex.quote(command))
        return self._low_level_execute_command(command, in_data=data)

    def _run_with_file(self, script, data):
        remote_directory = self._make_tmp_path()
        handle, local = tempfile.mkstemp(dir=C.DEFAULT_LOCAL_TMP)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            remote = self._connection._shell.join_path(remote_directory, "sent")
            self._connection.put_file(local, remote)
            self._fixup_perms2((remote_directory, remote))
            return self._run("/bin/sh -c %s <%s" % (shlex.quote(script), shlex.quote(remote)))
        finally:
            os.unlink(local)
            self._remove_tmp_path(remote_directory)


def built(family):
    """The programs of a family by architecture: file, sha256 and size of the program in it."""
    try:
        with open(os.path.join(FILES, "programs.json")) as stream:
            return json.load(stream)[family]
    except (OSError, IOError) as problem:
        raise Failure("this collection has no programs (%s): install one that `make collection` built" % problem)


def understood(out):
    """The program's result, which is one line; or the words of the shell's answer."""
    lines = to_text(out.get("stdout") or "").split("\n")  # a result may have other ends of lines in its text
    for line in lines:
        if line.startswith(ANSWER):
            return line[len(ANSWER):].split()
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    said = [line for line in lines + to_text(out.get("stderr") or "").split("\n") if line.strip()]
    raise Failure("the program ended without a result (exit code %s)%s" % (
        out.get("rc"), ": " + " | ".join(said[-5:]) if said else ", and said nothing"))
