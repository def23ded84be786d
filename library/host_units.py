#!/usr/bin/python
"""Ansible module: units in their declared state, none of them older than the files it reads."""

from __future__ import annotations

DOCUMENTATION = """
module: host_units
short_description: Brings units to their state, in order, and makes them read what changed
description:
  - A handler is lost with the run that was to call it. This remembers instead what a unit has read, and compares it
    with what is in its files now, so that the next run heals what one before left undone. Where nothing is remembered
    of a unit that runs, as after a boot, the times of both are compared.
  - The units are treated one after the other; each has to be up before the next is touched.
options:
  units:
    description:
      - C(name); C(state) started (default), or stopped; C(enabled), left alone when not given.
      - C(restart_for) and C(reload_for) are lists of paths; of a directory everything in it counts.
      - C(test) is a command that has to succeed before a restart or reload.
    type: list
    elements: dict
  role:
    description:
      - Who declares them. Several roles may declare one unit for files of their own; each one's word is remembered
        until it says another.
    type: str
  ask:
    description:
      - Only say what would be done. Unlike a dry run this declares, for a role that does it with precautions.
    type: bool
    default: false
  recorded:
    description: Take the units that earlier runs declared on this host, all roles together.
    type: bool
    default: false
  stop_others:
    description: Patterns of units; those that run and are not listed are stopped and disabled.
    type: list
    elements: str
    default: []
"""

import contextlib
import glob
import hashlib
import json
import os
import subprocess
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

KEYS = {"name", "state", "enabled", "restart_for", "reload_for", "test"}
PROPERTIES = [
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "NeedDaemonReload",
    "DropInPaths",
    "ConditionResult",
    "ConditionTimestampMonotonic",
    "ExecMainStartTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "InvocationID",
]
# What each unit has read, by unit. Empty after a boot, and then every unit is newer than its files.
READ = "/run/host-units"
# Larger files count by size and time: nobody reads weights of gigabytes with every run.
SUMMED_BYTES = 1 << 20
# What was declared, a file ROLE:UNIT for each: for those who ask whether the host is still as it was declared.
RECORDS = "/var/lib/host-units"
JOURNAL_LINES = 20
# Longer than any unit of ours takes to start or stop.
TIMEOUT_S = 900


class Failed(Exception):
    """What did not work, in words for the operator."""


def run(*command):
    """Returns (exit status, output)."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"'{' '.join(command)}' did not end within {TIMEOUT_S} s"
    return done.returncode, done.stdout.decode(errors="replace").strip()


def newest(paths):
    """Time and path of the newest file or directory, a link counting as itself; (0, None) where there is none."""
    found = (0.0, None)
    for path in paths:
        inside = [] if os.path.islink(path) else list(os.walk(path))
        every = [path, *(os.path.join(folder, name) for folder, folders, names in inside for name in folders + names)]
        for each in every:
            if os.path.lexists(each):
                found = max(found, (os.lstat(each).st_mtime, each), key=lambda pair: pair[0])
    return found


def content(paths):
    """Of each file below `paths` what is in it; a link counts as what it says, and what is not there is left out."""
    found = {}
    for path in paths:
        inside = [] if os.path.islink(path) else list(os.walk(path))
        below = [os.path.join(folder, name) for folder, folders, names in inside for name in folders + names]
        for each in [path, *below]:
            if os.path.islink(each):
                found[each] = os.readlink(each)
            elif os.path.isfile(each):
                found[each] = _sum(each)
    return found


def below(paths, files):
    """Of `files` those that are one of `paths` or lie in one."""
    return {
        name: read
        for name, read in files.items()
        if any(name == path or name.startswith(path.rstrip("/") + "/") for path in paths)
    }


def _sum(path):
    status = os.stat(path)
    if status.st_size > SUMMED_BYTES:
        return f"{status.st_size} bytes of {status.st_mtime_ns}"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Unit:
    def __init__(self, wanted):
        unknown = {key for key, value in wanted.items() if value is not None} - KEYS
        if unknown or not wanted.get("name"):
            raise Failed(f"unit {wanted}: wanted a name and keys out of {sorted(KEYS)}")
        self.name = wanted["name"]
        self.stopped = wanted.get("state", "started") == "stopped"
        self.enabled = wanted.get("enabled")
        self.restart_for = wanted.get("restart_for") or []
        self.reload_for = wanted.get("reload_for") or []
        self.test = wanted.get("test")
        self.properties = {}
        self.blind = False

    def look(self):
        _, output = run("systemctl", "show", self.name, "--property", ",".join(PROPERTIES))
        self.properties = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        self.blind = self.blind or self.has_unread_drop_in

    @property
    def needs_systemd_to_read(self):
        return self.properties.get("NeedDaemonReload") == "yes" or self.has_unread_drop_in

    @property
    def has_unread_drop_in(self):
        """True for one in a new directory, which systemd before 256 does not notice by itself."""
        read = self.properties.get("DropInPaths", "").split()
        return any(path not in read for path in glob.glob(f"/etc/systemd/system/{self.name}.d/*.conf"))

    @property
    def known(self):
        return self.properties.get("LoadState") in ("loaded", "masked")

    @property
    def active(self):
        return self.properties.get("ActiveState") in ("active", "reloading")

    @property
    def skipped(self):
        """Tried, and left out by systemd since a Condition…= of the unit does not hold (chrony in a container)."""
        tried = self.properties.get("ConditionTimestampMonotonic", "0") != "0"
        return tried and self.properties.get("ConditionResult") == "no"

    def plan(self):
        """What to do, as [(word, reason)], in order."""
        steps = []
        if self.enabled is not None and self.known:
            now = self.properties.get("UnitFileState") in ("enabled", "enabled-runtime")
            if now != bool(self.enabled):
                steps.append(("enable" if self.enabled else "disable", "declared so"))
        if self.stopped:
            if self.properties.get("ActiveState") not in ("inactive", "failed", None):
                steps.append(("stop", "declared so"))
            return steps
        if self.skipped:
            return steps
        state = self.properties.get("ActiveState", "not there")
        if self.blind and self.active:
            return [*steps, ("restart", "systemd had not seen its drop-in")]
        # One that tries in vain to start is not active, but has to try with the new file.
        unread = self._unread("restart_for", self.restart_for, self._started_at())
        if unread and (self.active or state == "activating"):
            return [*steps, ("restart", f"it has not read {unread}")]
        if not self.active:
            return [*steps, ("start", f"it was {state}")]
        unread = self._unread("reload_for", self.reload_for, max(self._started_at(), self._reloaded_at()))
        if unread:
            steps.append(("reload", f"it has not read {unread}"))
        return steps

    def _unread(self, kind, paths, read_at):
        """A file that is not as the unit has read it, or None."""
        remembered = self._remembered()
        if remembered is None:
            when, path = newest(paths)
            return path if when > read_at else None
        # Other roles may have declared the same unit for files of theirs, as two do with sshd.
        now, then = content(paths), below(paths, remembered[kind])
        changed = sorted(path for path in now.keys() | then.keys() if now.get(path) != then.get(path))
        if not then or remembered["invocation"] != self.properties.get("InvocationID", ""):
            # Nothing is known of these files, or others have started it since: it read what was there then. This time
            # nobody can set back.
            changed = [path for path in changed if _changed_at(path) > read_at]
        return changed[0] if changed else None

    def _started_at(self):
        """Wall clock of the moment at which its program began to read."""
        for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"):
            microseconds = int(self.properties.get(name) or 0)
            if microseconds:
                return time.time() - (time.clock_gettime(time.CLOCK_MONOTONIC) - microseconds / 1e6)
        return 0.0

    def _stamp(self):
        return os.path.join(READ, self.name)

    def _remembered(self):
        try:
            with open(self._stamp()) as file:
                return json.load(file)
        except (OSError, ValueError):
            # An empty one is of a version that knew times only.
            return None

    def _reloaded_at(self):
        return os.lstat(self._stamp()).st_mtime if os.path.exists(self._stamp()) else 0.0

    def do(self, word):
        if self.test and word in ("start", "restart", "reload"):
            status, said = run("/bin/sh", "-c", self.test)
            if status:
                raise Failed(f"{self.name} is not touched: '{self.test}' says: {said}")
        began = time.time()
        since = f"@{began:.0f}"
        # As it is before: what is written meanwhile may not have been read.
        files = self.files()
        status, said = run("systemctl", word, self.name)
        if status:
            _, journal = run(
                "journalctl",
                "--unit",
                self.name,
                "--since",
                since,
                "--lines",
                str(JOURNAL_LINES),
                "--output",
                "cat",
                "--no-pager",
            )
            raise Failed(f"systemctl {word} {self.name} failed: {said}\n{journal}")
        if word in ("start", "restart", "reload"):
            self.look()
            self.remember(files, began)

    def files(self):
        return {"restart_for": content(self.restart_for), "reload_for": content(self.reload_for)}

    def remember(self, files, read_at):
        os.makedirs(READ, mode=0o755, exist_ok=True)
        before = self._remembered() or {}
        for kind, paths in (("restart_for", self.restart_for), ("reload_for", self.reload_for)):
            known = before.get(kind, {})
            own = below(paths, known)
            files[kind] |= {path: read for path, read in known.items() if path not in own}
        # A name of its own: tasks of several hosts may be delegated to this one at once.
        handle, temporary = tempfile.mkstemp(dir=READ, prefix=".")
        with os.fdopen(handle, "w") as file:
            json.dump({"invocation": self.properties.get("InvocationID", ""), **files}, file)
        os.utime(temporary, (read_at, read_at))
        os.rename(temporary, self._stamp())

    def adopt(self):
        """Remember what one has read that was found up and younger than its files."""
        if self.active and not self.stopped and not self.plan():
            remembered = self._remembered() or {}
            if remembered.get("invocation") != self.properties.get("InvocationID", ""):
                self.remember(self.files(), max(self._started_at(), self._reloaded_at()))


def _changed_at(path):
    """When its content, name or owner changed last; of what is gone, when something in its folder did."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.lstat(path).st_ctime


def others(patterns, declared):
    if not patterns:
        return []
    _, output = run("systemctl", "list-units", "--plain", "--no-legend", *patterns)
    names = [line.split()[0] for line in output.splitlines() if line.split()]
    return [name for name in names if name not in declared]


def apply(wanted, patterns, role=None, check_mode=False, ask=False):
    """Returns what was done, or in a dry run or where one only asks would be, as lines. Raises Failed."""
    units = [Unit(each) for each in wanted]
    done = []
    for unit in units:
        unit.look()
    strays = others(patterns, {unit.name for unit in units})
    # First: a run that fails below leaves a host that is not as declared, and that has to show.
    if role and not check_mode:
        record(role, wanted, strays)
    check_mode = check_mode or ask
    if any(unit.needs_systemd_to_read for unit in units) and not check_mode:
        run("systemctl", "daemon-reload")
        for unit in units:
            unit.look()
    for name in strays:
        done.append(f"stop {name}: not declared")
        if not check_mode:
            run("systemctl", "disable", name)
            status, said = run("systemctl", "stop", name)
            if status:
                raise Failed(f"systemctl stop {name} failed: {said}")
    for unit in units:
        # Again, since what was done to those before may have moved this one too.
        if done and not check_mode:
            unit.look()
        for word, reason in unit.plan():
            done.append(f"{word} {unit.name}: {reason}")
            if not check_mode:
                unit.do(word)
        if not check_mode:
            unit.adopt()
    return done


def recorded():
    """The units that earlier runs declared, each once whatever the number of roles that did."""
    by_unit = {}
    for name in sorted(_names()):
        with open(os.path.join(RECORDS, name)) as file:
            unit = json.load(file)
        by_unit.setdefault(unit["name"], []).append(unit)
    return [merged(declared) for _, declared in sorted(by_unit.items())]


def merged(declared):
    """What all roles want of one unit: to have read the files of each, and to be up and enabled if one needs it."""
    if len(declared) == 1:
        return declared[0]
    unit = {"name": declared[0]["name"]}
    for key in ("restart_for", "reload_for"):
        unit[key] = list(dict.fromkeys(path for each in declared for path in each.get(key) or []))
    if all(each.get("state") == "stopped" for each in declared):
        unit["state"] = "stopped"
    enabled = [each["enabled"] for each in declared if each.get("enabled") is not None]
    if enabled:
        unit["enabled"] = any(enabled)
    tests = list(dict.fromkeys(each["test"] for each in declared if each.get("test")))
    if tests:
        unit["test"] = tests[0] if len(tests) == 1 else " && ".join(f"({test})" for test in tests)
    return unit


def _names():
    """Of the records, without what a run that was cut off, or one of an earlier version, left beside them."""
    names = os.listdir(RECORDS) if os.path.isdir(RECORDS) else []
    return [name for name in names if not name.startswith(".") and not name.endswith(".new")]


def record(role, wanted, strays):
    os.makedirs(RECORDS, mode=0o755, exist_ok=True)
    for unit in wanted:
        # A name of its own: tasks of several hosts may be delegated to this one at once.
        handle, temporary = tempfile.mkstemp(dir=RECORDS, prefix=".")
        with os.fdopen(handle, "w") as file:
            os.fchmod(file.fileno(), 0o644)
            json.dump(unit, file)
        os.rename(temporary, os.path.join(RECORDS, f"{role}:{unit['name']}"))
    # An earlier version named a record by its unit alone, whichever role wrote last.
    gone = [unit["name"] for unit in wanted]
    gone += [name for name in _names() if name.split(":", 1)[-1] in strays]
    for name in gone:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(RECORDS, name))


def main():
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "dict"},
            "role": {"type": "str"},
            "ask": {"type": "bool", "default": False},
            "recorded": {"type": "bool", "default": False},
            "stop_others": {"type": "list", "elements": "str", "default": []},
        },
        mutually_exclusive=[["units", "recorded"]],
        required_one_of=[["units", "recorded"]],
        required_together=[["units", "role"]],
        supports_check_mode=True,
    )
    try:
        given = module.params
        wanted = recorded() if given["recorded"] else given["units"]
        done = apply(wanted, given["stop_others"], given["role"], module.check_mode, given["ask"])
    except Failed as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(changed=bool(done), done=done)


if __name__ == "__main__":
    main()
