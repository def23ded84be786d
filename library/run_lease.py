#!/usr/bin/python
"""Ansible module: a lease that keeps two runs apart, names its owner, and ends by itself when that is dead."""

from __future__ import annotations

DOCUMENTATION = """
module: run_lease
short_description: Takes, renews or ends the lease of a run
description:
  - A lease is a file in a folder. It belongs to a run of ansible-playbook, which holds it until that ends it.
  - Where the owner's process can be seen, a dead one's lease is over at once; elsewhere it is once its time is.
options:
  folder: {description: Where the lease lies., type: path, required: true}
  state: {description: C(held) takes or renews it; C(ended) gives it back., type: str, default: held}
  owner: {description: As another lease of the same run returned it; else the run that this is part of., type: dict}
  over: {description: Runs that are known to be over., type: list, elements: str, default: []}
  minutes: {description: Until it ends unless it is renewed., type: int, default: 60}
  take: {description: Take it from whoever holds it., type: bool, default: false}
"""

import contextlib
import fcntl
import getpass
import json
import os
import socket
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

NAME = ".lease"
PROGRAM = "ansible-playbook"
# Runs that died before they could tell the hosts so.
REMEMBERED = 20


class Held(Exception):
    """Who has the lease, in words for whoever wanted it."""


def started_ticks(pid):
    """When a process began, which tells it from a later one of the same number; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def place():
    """This machine since its boot, as far as processes see each other."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"


def this_run():
    """The owner that this process is part of: the ansible-playbook above it."""
    pid, found, words = os.getppid(), None, []
    while pid > 1:
        with open(f"/proc/{pid}/cmdline") as file:
            line = file.read().split("\0")
        if any(os.path.basename(word) == PROGRAM for word in line[:2]):
            found, words = pid, line
        elif found:
            break
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rsplit(")", 1)[1].split()[1])
    return owner_of(found or os.getppid(), words)


def owner_of(pid, words):
    login = os.environ.get("SUDO_USER") or getpass.getuser()
    playbooks = [os.path.basename(word) for word in words if word.endswith((".yml", ".yaml")) and word[0] not in "-@"]
    ticks = started_ticks(pid)
    return {
        "run": f"{place()} {pid} {ticks}",
        "who": f"{login}@{socket.gethostname()}",
        "playbook": " ".join(playbooks) or PROGRAM,
        "place": place(),
        "pid": pid,
        "started_ticks": ticks,
    }


def is_over(lease, now):
    """Whether its owner is dead, or was not heard of for its whole time."""
    if lease["place"] == place():
        return started_ticks(lease["pid"]) != lease["started_ticks"]
    return lease["ends"] <= now


class Lease:
    """The file in a folder; whoever reads or writes it has the folder locked."""

    def __init__(self, folder):
        self._folder, self._path = folder, os.path.join(folder, NAME)

    def take(self, owner, minutes, over=(), force=False):
        """Returns the runs that this one is known to come after. Raises Held."""
        now = time.time()
        with self._locked():
            before = self._read()
            mine = before is not None and before["run"] == owner["run"]
            if before and not (mine or force or before["run"] in over or is_over(before, now)):
                raise Held(self._tell(before))
            known = before["over"] if before else []
            if before and not mine:
                known = [*known, before["run"]][-REMEMBERED:]
            since = before["since"] if mine else now
            self._write({**owner, "since": since, "ends": now + minutes * 60, "over": known})
        return known

    def end(self, owner):
        """Give it back. One that another run has taken stays."""
        with self._locked():
            before = self._read()
            if before and before["run"] == owner["run"]:
                os.unlink(self._path)

    @contextlib.contextmanager
    def _locked(self):
        os.makedirs(self._folder, mode=0o755, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self):
        """None where there is none, or one that nobody can read."""
        try:
            with open(self._path) as file:
                lease = json.load(file)
            kinds = {"run": str, "who": str, "playbook": str, "place": str, "since": float, "ends": float, "over": list}
            return lease if all(isinstance(lease[name], kind) for name, kind in kinds.items()) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, lease):
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=NAME)
        with os.fdopen(handle, "w") as file:
            json.dump(lease, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self._path)

    def _tell(self, lease):
        since, ends = (time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(lease[name])) for name in ("since", "ends"))
        if lease["place"] == place():
            ends = f"it runs here as process {lease['pid']}"
        else:
            ends = f"its lease ends at {ends} unless it renews it"
        return (
            f"{lease['who']} runs {lease['playbook']} on this fleet since {since} ({self._path}); {ends}. "
            "Wait until it is through, or, if you know that it is over, run this again with -e lease_take=true"
        )


def main():
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["held", "ended"], "default": "held"},
            "owner": {"type": "dict"},
            "over": {"type": "list", "elements": "str", "default": []},
            "minutes": {"type": "int", "default": 60},
            "take": {"type": "bool", "default": False},
        },
    )
    given = module.params
    owner = given["owner"] or this_run()
    lease = Lease(given["folder"])
    if given["state"] == "ended":
        lease.end(owner)
        module.exit_json(changed=False, at=0)
    try:
        over = lease.take(owner, given["minutes"], given["over"], given["take"])
    except Held as held:
        module.fail_json(msg=str(held))
    # Nothing that a run is for: who counts changes means those of the fleet.
    module.exit_json(changed=False, owner=owner, over=over, at=time.time())


if __name__ == "__main__":
    main()
