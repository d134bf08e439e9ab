# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Runs Rewind's programs on a server, which keeps them from one task to the next.

A task is one call: a shell script on the server looks for the program by the hash of its content, and runs it with the
arguments on stdin. If the program is not there, the script says so; a second call sends the program, compressed, and
then the first call is made again. The server needs no Python.

If the work takes long, the program answers with the id of its run on the server, and from then on the plugin asks for
that run again and again. So it can show the progress, and there is only one run even if the connection is lost in
between.
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

# The directories for programs, the same as in core/journey: the first one from which programs may run is used.
DIRECTORIES = "/var/lib/rewind/bin /usr/local/lib/rewind /opt/rewind"

FILES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "files")

# The architectures for which there are programs, by the kernel's names (uname -m).
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

# An answer of the shell script itself, and not of a program, begins with this.
ANSWER = "rewind-answer:"

# The first line of what is sent on stdin. If the script does not read it, the connection cannot send anything to a
# program.
GREETING = "rewind"

# Each script is one line, which every login shell passes on unchanged. Its functions:
#
# no ANSWER: ends with an answer of the script, having done nothing. It first reads stdin to its end, because otherwise
# ssh takes the server for lost. If stdin is a terminal, there is nothing to read.
# safe DIRECTORY [FILE]: succeeds if nobody but root can have written the directory, the file, and the directories
# above, or can change them.
SCRIPT = (
    'no() { [ -t 0 ] || cat >/dev/null; echo %(answer)s "$@"; exit; }; '
    'safe() { s=$(readlink -f $1) || return; shift; while [ "$s" ]; do set -- "$@" "$s"; s=${s%%/*}; done; '
    '[ "$(find / "$@" -prune -user 0 ! -perm /022 2>/dev/null | wc -l)" -eq $(($# + 1)) ]; }; '
    'l=; [ -t 0 ] || IFS= read -r l; [ "$l" = %(greeting)s ] || no nothing; ')

RUN = SCRIPT + (
    'for d in %(directories)s; do for h in %(hashes)s; do p=$d/rewind-$h; '
    '[ -x $p ] && safe $d $p && exec $p %(name)s -; done; done; no missing $(uname -m) $(id -u)')

# Each directory is tried by running the new file while it is empty, which fails only if the file system is mounted
# noexec.
KEEP = SCRIPT + (
    't=; for d in %(directories)s; do [ -d ${d%%rewind*} ] && (umask 077; mkdir -p $d) && safe $d && '
    't=$(mktemp $d/rewind-new.XXXXXXXX) && chmod 700 $t && $t && break; rm -f "$t"; t=; done; [ "$t" ] || no noplace; '
    'gzip -dc >$t && [ "$(sha256sum <$t)" = "%(hash)s  -" ] || { rm -f $t; no torn; }; '
    'sync $t; mv -f $t $d/rewind-%(hash)s && sync $d && no kept')


# How long a call waits for the end of a run, in seconds, before the plugin asks again.
PATIENCE = 10

# After how many failed attempts in a row the plugin gives up asking for a run. The attempts are PATIENCE apart.
MAX_FAILED_POLLS = 6


class Failure(Exception):
    """Says why there is no result of the program."""


class NoResult(Failure):
    """Says that a call of the program ended without a result. sudo or the shell may have failed."""


class ProgramAction(ActionBase):
    """The action of every module that has a program. FAMILY names the executable file that contains the program."""

    FAMILY = None

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        self._supports_check_mode = True
        self._supports_async = False
        self._pipelining = getattr(self._connection, "has_pipelining", False)
        name = self._task.action.split(".")[-1]
        if self._task.async_val:
            return dict(failed=True, changed=False, msg=(
                "%s cannot be run with async: what it does is a unit of systemd of its own, which goes on when the "
                "connection is lost, and the same task attaches to it again. Leave async out; detach: true does not "
                "wait for it." % name))
        result = super(ProgramAction, self).run(tmp, task_vars)
        try:
            result.update(self._result(name, self._task.delegate_to or task_vars["inventory_hostname"]))
        except Failure as problem:
            result.update(failed=True, changed=False, msg="%s: %s" % (name, problem))
        return result

    def _result(self, name, host):
        """Returns the program's result. If the task waits for a run, its progress is shown meanwhile."""
        arguments = self._arguments()
        if arguments.get("run"):
            return self._poll(name, arguments, host)
        if boolean(arguments.get("detach") or False, strict=False):
            return self._request(name, arguments)
        arguments["_ansible_patience"] = PATIENCE
        answer, run, shown, failed_polls = self._request(name, arguments), None, None, 0
        while answer.get("finished") is False:
            if answer.get("failed"):  # the attempt to ask failed, not the run
                failed_polls += 1
                if failed_polls == MAX_FAILED_POLLS:
                    break
                time.sleep(PATIENCE)
            else:
                run, failed_polls = answer["run"], 0
                shown = self._show_progress(host, run, shown)
            answer = self._poll(name, dict(arguments, run=run["id"]), host)
        answer.pop("finished", None)
        return answer

    def _show_progress(self, host, run, shown):
        """Shows how far a run is, if its label or the tenths of its percentage differ from shown. Returns both."""
        percent = run.get("percent")
        news = (run.get("label"), None if percent is None else int(percent) // 10)
        if news != shown and not self._task.no_log:
            words = [run["title"]] + [run["label"]] * bool(run.get("label"))
            done = "" if percent is None else " %d %%" % percent
            Display().display("%s: %s%s" % (host, ": ".join(words), done), stderr=True)
        return news

    def _poll(self, name, arguments, host):
        """Asks for the run. If the server cannot be reached for a moment, it tries again: the run goes on meanwhile."""
        for left in reversed(range(MAX_FAILED_POLLS)):
            try:
                return self._request(name, arguments)
            except NoResult as problem:
                if "_ansible_patience" not in arguments:
                    raise
                if left == 0:
                    raise Failure("%s; its run goes on: systemctl status rewind-%s says how far it is, and the same task "
                                  "again waits for it" % (problem, arguments["run"]))
                Display().warning("%s is asked again in %d s: %s" % (host, PATIENCE, problem))
                time.sleep(PATIENCE)
            except AnsibleError as problem:
                # Before ansible-core 2.19 a slow sudo is an AnsibleError, too, and no AnsibleConnectionFailure.
                lost = isinstance(problem, AnsibleConnectionFailure) or "privilege escalation" in to_text(problem)
                if left == 0 or not lost:
                    raise
                Display().warning("%s is asked again in %d s: %s" % (host, PATIENCE, problem))
                time.sleep(PATIENCE)
                self._reset_connection()

    def _reset_connection(self):
        """Makes the next call use a new connection. With paramiko the new connection is made at once, and may fail."""
        try:
            self._connection.reset()
        except AnsibleConnectionFailure:
            pass

    def _request(self, name, arguments):
        """Calls the program, and installs it first if it is missing. Returns its result."""
        programs = programs_of(self.FAMILY)
        words = dict(answer=ANSWER, greeting=GREETING, directories=DIRECTORIES, name=name)
        words["hashes"] = " ".join(sorted(program["sha256"] for program in programs.values()))
        run, arguments = RUN % words, to_bytes(json.dumps(arguments))
        answer = self._call(run, arguments)
        if not isinstance(answer, dict):
            self._install(programs, words, answer)
            answer = self._call(run, arguments)
        if not isinstance(answer, dict):
            raise Failure("the program was sent to the server, but is not there (%s)" % " ".join(answer))
        return answer

    def _install(self, programs, words, missing):
        """Sends the program that is missing on the server. missing are the words of the script's answer."""
        if len(missing) != 3 or missing[0] != "missing":
            raise Failure("the server's shell gave an unexpected answer (%s)" % " ".join(missing))
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
            raise Failure("no program can be kept and run on the server: each of %s is on a file system that is "
                          "mounted noexec or read-only, is full, or can be changed by others than root" % places)
        if answer != ["kept"]:
            raise Failure("the program did not arrive whole; the server needs gzip, sha256sum, mktemp, find and "
                          "readlink, and %d bytes of room in one of %s" % (program["size"], places))

    def _arguments(self):
        """Returns what the program reads: the arguments of the task, and the settings of Ansible."""
        arguments = json.loads(json.dumps(self._task.args, default=to_text))
        arguments.update(
            _ansible_check_mode=bool(self._task.check_mode), _ansible_diff=bool(self._task.diff),
            _ansible_no_log=bool(self._task.no_log), _ansible_verbosity=Display().verbosity)
        return arguments

    def _call(self, script, data):
        """Runs a script on the server with data on stdin. Returns the program's result, or the words of the script's
        answer."""
        data = to_bytes(GREETING + "\n") + data
        if self._pipelining:
            out = self._run(script, data)
            answer = parse_output(out)
            if answer != ["nothing"]:
                return answer
            self._pipelining = False  # this connection cannot send to the stdin of a program, only files
        return parse_output(self._run_with_file(script, data))

    def _run(self, command, data=None):
        """Runs a command on the server with the task's environment and data on stdin."""
        environment = self._compute_environment_string()
        if environment:
            command = "%s /bin/sh -c %s" % (environment, shlex.quote(command))
        return self._low_level_execute_command(command, in_data=data)

    def _run_with_file(self, script, data):
        """Runs a script on the server with data on stdin, by way of a file that is sent first."""
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


def programs_of(family):
    """Returns the programs of a family by architecture: the file, the program's sha256, and its size in bytes."""
    try:
        with open(os.path.join(FILES, "programs.json")) as stream:
            return json.load(stream)[family]
    except (OSError, IOError) as problem:
        raise Failure("this collection has no programs (%s): install one that `make collection` built" % problem)


def parse_output(out):
    """Returns the program's result, which is one line of JSON, or the words of the script's answer."""
    # Not splitlines: a result may contain other characters that splitlines takes for line ends.
    lines = to_text(out.get("stdout") or "").split("\n")
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
    raise NoResult("the program ended without a result (exit code %s)%s" % (
        out.get("rc"), ": " + " | ".join(said[-5:]) if said else ", and said nothing"))
