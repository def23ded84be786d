#!/usr/bin/python
"""Ansible module: all files of a role in one go, each checked by its own program before any of them lands.

plugins/action/host_files.py runs it, and renders templates before.
"""

from __future__ import annotations

DOCUMENTATION = """
module: host_files
short_description: Writes files together, after each was checked
description:
  - What copies and checks one file costs two remote executions a file; this is one for all.
  - A file is its template in C(templates/), which lies there under the path that it has on the host, plus C(.j2).
  - Nothing is written unless every changed file passes its check.
options:
  files:
    description:
      - Each has a C(path), which is enough for a file with a template of its own.
      - C(src) names another template below C(templates/), C(vars) gives it more variables.
      - C(content) takes the place of a template.
      - C(state) is C(file) (default), C(absent) or C(directory).
      - C(owner), C(group) (default root) and C(mode) (default 0644, directories 0755).
      - C(validate) is a command line for a shell; %s becomes a staged copy with the same name in a folder of its own.
      - Units and drop-ins in /etc/systemd/system are checked by systemd-analyze without being told.
    type: list
    elements: dict
  remember:
    description: Whether what was declared is remembered. False for what comes and goes by other hands.
    type: bool
    default: true
  recorded:
    description:
      - Only look, at every file that earlier runs declared on this host, all roles together. C(differences) of the
        answer has a line for each that is not as it was written.
    type: bool
    default: false
"""

EXAMPLES = """
- name: Write nginx's files
  host_files:
    files:
      - {path: /var/lib/bedplate-balancer/drained, state: directory}
      - path: /etc/nginx/nginx.conf  # rendered from templates/etc/nginx/nginx.conf.j2
        validate: /usr/sbin/nginx -t -c %s
      - path: /etc/nginx/sites-enabled/default
        state: absent
"""

RETURN = """
changed_paths:
  description: The paths that changed, or would in check mode.
  returned: where files were given
  type: list
  elements: str
differences:
  description: A line for each path that is not as it was written; none where no run has written any.
  returned: with recorded
  type: list
  elements: str
"""

import contextlib
import grp
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

KEYS = {"path", "content", "state", "owner", "group", "mode", "validate"}
CHECK_TIMEOUT_S = 60
SHELL_NOT_FOUND = (126, 127)


UNITS = "/etc/systemd/system"
# What was declared, a file for each path: for those who ask whether the host is still as it was declared. For root
# alone, since the sum of a secret says whether a guess is right.
RECORDS = "/var/lib/host-files"


class Refused(Exception):
    """What is wrong with a file, in words for the operator."""


class Entry:
    """One wanted path beside what is there."""

    def __init__(self, wanted):
        self.path = wanted.get("path") or ""
        unknown = set(wanted) - KEYS
        if unknown or not self.path.startswith("/"):
            raise Refused(
                f"path {self.path!r} with keys {sorted(wanted)}: wanted an absolute path and keys out of {sorted(KEYS)}"
            )
        self.state = wanted.get("state", "file")
        if self.state not in ("file", "directory", "absent") or (self.state == "file" and "content" not in wanted):
            raise Refused(f"{self.path}: state {self.state!r} does not do; give content, or absent or directory")
        self.content = str(wanted.get("content", "")).encode()
        self.owner = wanted.get("owner", "root")
        self.group = wanted.get("group", "root")
        self.mode = int(str(wanted.get("mode", "0755" if self.state == "directory" else "0644")), 8)
        self.validate = wanted.get("validate")
        self.exists = os.path.lexists(self.path)
        self.before = self._read()

    def _read(self):
        if not os.path.isfile(self.path) or os.path.islink(self.path):
            return None
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None  # removed meanwhile, by a task that another host delegated to this one

    @property
    def new_content(self):
        return self.state == "file" and self.before != self.content

    def new_attributes(self):
        if self.state == "absent" or not self.exists:
            return False
        status = os.lstat(self.path)
        return (status.st_mode & 0o7777, status.st_uid, status.st_gid) != (self.mode, *self.ids())

    def ids(self):
        try:
            return pwd.getpwnam(self.owner).pw_uid, grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise Refused(
                f"{self.path}: there is no user {self.owner!r} or no group {self.group!r} on this host"
            ) from None

    def declared(self):
        """For the record; see `describe`."""
        if self.state == "absent":
            return {"path": self.path, "state": "absent"}
        return {
            "path": self.path,
            "state": self.state,
            "owner": self.owner,
            "group": self.group,
            "mode": f"{self.mode:04o}",
            "sha256": hashlib.sha256(self.content).hexdigest() if self.state == "file" else "",
        }

    def changed(self, check_mode):
        if self.state == "absent":
            return self.exists
        if not self.exists or self.new_content:
            return True
        try:
            return self.new_attributes()
        except Refused:
            # In a dry run of a new host nobody has made the user yet.
            if check_mode:
                return True
            raise

    def diff(self):
        after = {"file": self.content, "directory": b"", "absent": b""}[self.state]
        return {
            "before_header": self.path,
            "after_header": self.path if self.state != "absent" else f"{self.path} (absent)",
            "before": (self.before or b"").decode(errors="replace") + self._attributes_now(),
            "after": after.decode(errors="replace") + self._attributes_wanted(),
        }

    def _attributes_now(self):
        if not self.exists or not self._attributes_differ():
            return ""
        status = os.lstat(self.path)
        owner, group = _name(pwd.getpwuid, status.st_uid), _name(grp.getgrgid, status.st_gid)
        return f"# mode {status.st_mode & 0o7777:04o}, owner {owner}, group {group}\n"

    def _attributes_wanted(self):
        if not self.exists or not self._attributes_differ():
            return ""
        return f"# mode {self.mode:04o}, owner {self.owner}, group {self.group}\n"

    def _attributes_differ(self):
        try:
            return self.new_attributes()
        except Refused:
            return True

    def check(self, staging, check_mode):
        """Ask the file's own program. Raises Refused with its words."""
        if not self.validate or not self.new_content:
            return
        folder = tempfile.mkdtemp(dir=staging)
        os.chmod(folder, 0o711)
        staged = os.path.join(folder, os.path.basename(self.path))
        try:
            self._write(staged)
        except Refused:
            # In a dry run of a new host nobody has made the user yet; the copy stays root's.
            if not check_mode:
                raise
        command = self.validate.replace("%s", staged)
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                capture_output=True,
                timeout=CHECK_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"{self.path}: '{self.validate}' did not end within {CHECK_TIMEOUT_S} s") from None
        # In a dry run of a new host the program may not be installed yet.
        if done.returncode == 0 or (check_mode and done.returncode in SHELL_NOT_FOUND):
            return
        said = (done.stdout + done.stderr).decode(errors="replace").replace(staged, self.path).strip()
        raise Refused(f"{self.path} is refused by '{self.validate}' (status {done.returncode}): {said}")

    @property
    def unit(self):
        """The unit that this file is, or is a drop-in of; None for any other file."""
        folder, name = os.path.split(self.path)
        if self.state != "file" or not self.path.startswith(UNITS + "/"):
            return None
        if folder == UNITS:
            return name
        return os.path.basename(folder)[:-2] if folder.endswith(".d") and name.endswith(".conf") else None

    def land(self):
        if self.state == "absent":
            self._remove()
        elif self.state == "directory":
            os.makedirs(self.path, mode=0o755, exist_ok=True)
            self._own(self.path)
        elif self.new_content:
            self._replace()
        else:
            self._own(self.path)

    def _remove(self):
        # A task that another host delegated to this one may be quicker.
        if os.path.isdir(self.path) and not os.path.islink(self.path):
            shutil.rmtree(self.path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def _replace(self):
        os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path), prefix=".host-files-")
        os.close(handle)
        try:
            self._write(temporary)
            os.rename(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _write(self, path):
        with open(path, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(self.content)
            file.flush()
            os.fsync(file.fileno())
        self._own(path)

    def _own(self, path):
        os.chown(path, *self.ids(), follow_symlinks=False)
        os.chmod(path, self.mode)


def _name(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def check_units(entries, staging, check_mode):
    """Let systemd read the units as they will be, all together since they name each other. Returns what it refuses."""
    units = [entry for entry in entries if entry.unit]
    if not any(entry.new_content for entry in units):
        return []
    folder = os.path.join(staging, "units")
    os.mkdir(folder)
    missing = [name for name in sorted({entry.unit for entry in units}) if not _stage_unit(name, units, folder)]
    problems = [] if check_mode else [f"{name} has a drop-in, but is no unit of this host" for name in missing]
    wanted = sorted({_instance(entry.unit) for entry in units if entry.new_content and entry.unit not in missing})
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(os.path.join(folder, name) for name in wanted)],
        capture_output=True,
        timeout=CHECK_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    # It also speaks of units that ours depend on, and of programs that a dry run has not installed.
    ours = (folder, *(f"{name}:" for name in wanted), *(f"Unit {name} " for name in wanted))
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith(ours)]
    said = [line for line in said if not (check_mode and "is not executable" in line)]
    return problems + [f"systemd-analyze verify: {line.replace(folder, UNITS)}" for line in said]


def _stage_unit(name, entries, folder):
    """Put the unit and its drop-ins into the folder; False where there is only a drop-in and no unit."""
    own = [entry for entry in entries if entry.unit == name]
    for entry in own:
        path = os.path.join(folder, os.path.relpath(entry.path, UNITS))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(entry.content)
    fragment = os.path.join(folder, name)
    if not os.path.exists(fragment):
        show = ["systemctl", "show", "--property=FragmentPath", "--value", _instance(name)]
        found = subprocess.run(show, capture_output=True, check=False).stdout.decode().strip()
        if not found:
            return False
        shutil.copy(found, fragment)
    if _instance(name) != name:
        shutil.copy(fragment, os.path.join(folder, _instance(name)))
    return True


def _instance(name):
    """Of a template unit one instance, since many settings make sense with a number only."""
    return name.replace("@.", "@1.")


def apply(files, check_mode):
    """Returns the diffs of what changed, by path. Raises Refused, and then nothing was written."""
    entries = [Entry(wanted) for wanted in files]
    changed = [entry for entry in entries if entry.changed(check_mode)]
    staging = tempfile.mkdtemp(prefix="host-files-")
    try:
        # And the folders in it: the program that checks may give up root.
        os.chmod(staging, 0o711)
        problems = []
        for entry in changed:
            try:
                entry.check(staging, check_mode)
            except Refused as refusal:
                problems.append(str(refusal))
        problems += check_units([entry for entry in entries if entry.state == "file"], staging, check_mode)
        if problems:
            raise Refused("; ".join(problems))
    finally:
        shutil.rmtree(staging)
    diffs = {entry.path: entry.diff() for entry in changed}
    if not check_mode:
        for entry in changed:
            entry.land()
    return diffs


def record(files):
    os.makedirs(RECORDS, mode=0o700, exist_ok=True)
    for entry in map(Entry, files):
        # A name of its own: tasks of several hosts may be delegated to this one at once.
        handle, temporary = tempfile.mkstemp(dir=RECORDS, prefix=".")
        with os.fdopen(handle, "w") as file:
            json.dump(entry.declared(), file)
        os.rename(temporary, os.path.join(RECORDS, hashlib.sha256(entry.path.encode()).hexdigest()))


def differences():
    """Lines of what is not as earlier runs wrote it; None where no run remembered anything."""
    if not os.path.isdir(RECORDS):
        return None
    found = []
    for name in sorted(os.listdir(RECORDS)):
        if name.startswith("."):
            continue  # left by a run that was cut off
        with open(os.path.join(RECORDS, name)) as file:
            wanted = json.load(file)
        now = describe(wanted["path"])
        if wanted["state"] == "absent" or now["state"] == "absent":
            if wanted["state"] != now["state"]:
                found.append(f"{wanted['path']} is {'gone' if now['state'] == 'absent' else 'there again'}")
            continue
        same = ("state", "owner", "group", "mode")
        wrong = [f"{key} {now[key]}, not {wanted[key]}" for key in same if now[key] != wanted[key]]
        wrong += ["other content"] if now["sha256"] != wanted["sha256"] else []
        if wrong:
            found.append(f"{wanted['path']} has {', '.join(wrong)}")
    return sorted(found)


def describe(path):
    """What is at a path, in the words of a record."""
    if not os.path.lexists(path):
        return {"path": path, "state": "absent"}
    status = os.lstat(path)
    kind = "link" if os.path.islink(path) else "directory" if os.path.isdir(path) else "file"
    text = b""
    if kind == "file":
        with open(path, "rb") as file:
            text = file.read()
    return {
        "path": path,
        "state": kind,
        "owner": _name(pwd.getpwuid, status.st_uid),
        "group": _name(grp.getgrgid, status.st_gid),
        "mode": f"{status.st_mode & 0o7777:04o}",
        "sha256": hashlib.sha256(text).hexdigest() if kind == "file" else "",
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict"},
            "remember": {"type": "bool", "default": True},
            "recorded": {"type": "bool", "default": False},
        },
        mutually_exclusive=[["files", "recorded"]],
        required_one_of=[["files", "recorded"]],
        supports_check_mode=True,
    )
    if module.params["recorded"]:
        module.exit_json(changed=False, differences=differences())
    try:
        diffs = apply(module.params["files"], module.check_mode)
        if module.params["remember"] and not module.check_mode:
            record(module.params["files"])
    except Refused as refusal:
        module.fail_json(msg=f"{refusal}. Nothing was written.")
    module.exit_json(changed=bool(diffs), changed_paths=list(diffs), diff=list(diffs.values()))


if __name__ == "__main__":
    main()
