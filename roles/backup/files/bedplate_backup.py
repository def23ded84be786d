#!/usr/bin/python3
"""bedplate-backup STEP: backs this host up with restic, checks and rehearses the backups, lists and restores them.

    init        make the repository, or take up the one that is there
    backup      add a snapshot, then check the structure of the repository
    check       read every byte of the repository; only if all is right, forget what the policy does not keep
    rehearse    restore the newest snapshot onto scratch and compare it with the host, byte for byte
    list        what could be restored, how old it is, when it was last proven
    restore     put a snapshot, or one thing of it, back in its place; --dry-run shows what that would do

Needs the Python of every supported release (3.9 and later), restic 0.11 or later, and rsync.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import filecmp
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/bedplate/backup.json")
# Steps of which the last success, the last outcome and the duration are told.
TOLD = ("backup", "check", "rehearse")
# Who had which number when the snapshot was made: on another host the same account may have another one.
ACCOUNTS = ("/etc/passwd", "/etc/group")

# rsync's word for what it takes away.
DELETING = "*deleting"
# What a restore may delete of what the snapshot does not hold, unless the operator says a number.
MOST_DELETIONS = 50

SECRET_CHANGED = (
    "where secret_backup was changed while this host was away, add the new password with the old one by hand, as "
    "docs/backups.md says under 'Change the secret', or put the old secret back"
)

# Between tries to reach the store, whose firewall holds off who comes more than 6 times in 30 s.
PAUSES_S = (12, 12, 12)
# Of the store's note on why it takes nothing more, and for its way here.
NOTE_CHARACTERS = 2000
NOTE_S = 60


class Failed(Exception):
    """What is wrong, in words for the operator."""


class State:
    """What this host remembers of its backups: small JSON files, each replaced whole."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, name: str) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def write(self, name: str, value: dict[str, Any]) -> None:
        replace(self.folder / f"{name}.json", json.dumps(value, indent=1), 0o600)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other step runs on this host."""
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the disk of the state; what a cut-off step left there goes first."""
        folder = self.folder / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def replace(path: Path, text: str, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Repository:
    """restic with the settings of this host. The password is in a file, never an argument."""

    def __init__(self, settings: dict[str, Any], state: State):
        self.settings = settings
        self.state = state

    def run(self, *arguments: str) -> str:
        """Returns what restic printed. Raises Failed with its words."""
        done = self._restic(*arguments)
        if done.returncode and "already locked" in done.stderr:
            # By a step that was cut off; restic takes away only locks whose program is gone.
            self._restic("unlock")
            done = self._restic(*arguments)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Failed(f"restic {arguments[0]} ended with status {done.returncode}: {'; '.join(said[-6:])[:1500]}")
        return done.stdout

    def _restic(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = [f"--option={name}={value}" for name, value in self.settings["options"].items()]
        command = ["restic", f"--cache-dir={self.state.folder}/cache", *options, *arguments]
        environment = os.environ | {
            "RESTIC_REPOSITORY": self.settings["repository"],
            "RESTIC_PASSWORD_FILE": self._password_file(),
            "RESTIC_PROGRESS_FPS": "0",
            **self.settings["environment"],
        }
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def _password_file(self) -> str:
        """From systemd where a unit runs; root by hand reads what systemd would."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        return f"{folder}/password" if folder else str(self.settings["password_file"])

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Over SFTP hold one connection for all of restic's, for the same reason."""
        if not self.settings["ssh_config"]:
            yield
            return
        ssh = ["ssh", "-F", self.settings["ssh_config"]]
        for pause_s in (0, *PAUSES_S):
            time.sleep(pause_s)
            opened = subprocess.run(
                [*ssh, "-f", "-N", "-M", "store"],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            if opened.returncode == 0:
                break
        else:
            raise Failed(f"the store is not reached: {opened.stderr.strip()}")
        try:
            yield
        finally:
            subprocess.run([*ssh, "-O", "exit", "store"], capture_output=True, check=False)

    def adopt_password(self) -> None:
        """Have the store opened by the password that the inventory wants from now on. Raises Failed, all as it was.

        Each moment of it may be the last: the next try finds which of the two opens.
        """
        wanted, current = wanted_password(self.settings), Path(self.settings["password_file"])
        if not self.has_new_password():
            return
        if current.exists() and not self._opens_with(wanted):
            if self._opens_with(current):
                self.require_room()
                self.run("key", "passwd", f"--new-password-file={wanted}")
                print("the store has the new password")
            elif self.state.read("repository"):
                raise Failed(f"{self.settings['repository']} opens neither with this host's password nor with the one "
                             f"that secret_backup comes to now, if it is there at all: {SECRET_CHANGED}")  # fmt: skip
        replace(current, wanted.read_text(), 0o600)

    def has_new_password(self) -> bool:
        wanted, current = wanted_password(self.settings), Path(self.settings["password_file"])
        return wanted.exists() and not (current.exists() and current.read_text() == wanted.read_text())

    def _opens_with(self, password: Path) -> bool:
        other = Repository({**self.settings, "password_file": str(password)}, self.state)
        return other._restic("cat", "config", "--no-lock").returncode == 0

    def id(self) -> str:
        return str(json.loads(self.run("cat", "config", "--no-lock"))["id"])

    def snapshots(self) -> list[dict[str, Any]]:
        """This host's, oldest first."""
        found = json.loads(self.run("snapshots", "--json", "--no-lock", f"--host={self.settings['host']}")) or []
        return sorted(found, key=lambda snapshot: moment(snapshot["time"]))

    def require_whole(self) -> None:
        """What restic's own check does not see: another repository in place of ours, and snapshots that are gone."""
        known = self.state.read("repository")
        if not known:
            raise Failed("no repository is known; run: bedplate-backup init")
        if self.id() != known["id"]:
            raise Failed(f"{self.settings['repository']} holds repository {self.id()}, not ours, {known['id']}")
        gone = known["snapshots"].keys() - {snapshot["id"] for snapshot in self.snapshots()}
        if gone:
            raise Failed(
                f"{len(gone)} snapshots are gone from the store: {', '.join(sorted(each[:8] for each in gone))}"
            )

    def require_room(self) -> None:
        """Before writing: restic tries for minutes what the store refuses, and then does not know why."""
        refused = self._refused()
        if refused:
            raise Failed(f"the store takes nothing more: {refused}. What lies there is read and restored as before")

    def _refused(self) -> str:
        """Why, in the store's words, which lie beside the repository; empty where it says nothing."""
        path = self.settings.get("quota_file")
        if not path:
            return ""
        with tempfile.TemporaryDirectory(dir=self.state.folder) as folder:
            note = Path(folder) / "note"
            # A store of before quotas has none; whatever else is wrong, restic says better.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
                self._fetch(path, note)
                with open(note) as file:
                    return str(json.loads(file.read(NOTE_CHARACTERS))["refused"])
        return ""

    def _fetch(self, path: str, to: Path) -> None:
        if not self.settings["ssh_config"]:
            shutil.copyfile(path, to)
            return
        sftp = ["sftp", "-q", "-F", self.settings["ssh_config"], "-b", "-", "store"]
        subprocess.run(sftp, input=f"get {path} {to}\n", text=True, capture_output=True, check=False, timeout=NOTE_S)

    def remember(self, **facts: dict[str, Any]) -> None:
        """Write down which snapshots there are, with facts on some of them by id."""
        before = self.state.read("repository").get("snapshots", {})
        now = {each["id"]: before.get(each["id"], {}) | facts.get(each["id"], {}) for each in self.snapshots()}
        self.state.write("repository", {"id": self.id(), "snapshots": now})

    def restore(self, snapshot: str, scratch: Path, paths: list[str]) -> None:
        """Onto scratch; restic reads everything once more and compares it with what the snapshot says.

        Without a lock, which is a file that a store may refuse; steps of one host wait for each other anyway.
        """
        included = [f"--include={literally(path)}" for path in paths]
        self.run("restore", snapshot, f"--target={scratch}", "--verify", "--no-lock", *included)


def wanted_password(settings: dict[str, Any]) -> Path:
    return Path(f"{settings['password_file']}-wanted")


def moment(text: str) -> float:
    """Seconds since 1970 of restic's time, which has nanoseconds: 2026-01-02T03:04:05.123456789+01:00."""
    head, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] if rest else ""
    whole = datetime.fromisoformat((head + zone).replace("Z", "+00:00")).timestamp()
    return whole + float(f"0.{digits or 0}")


def literally(path: str) -> str:
    """For restic, to which some characters of a path are a pattern."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", path)


def paths_of(settings: dict[str, Any]) -> list[str]:
    return [path for paths in settings["parts"].values() for path in paths]


def clean(path: str) -> str:
    """Without doubled and trailing slashes and `.`; of `/..` nobody knows without the host's links where it leads."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not path.startswith("/") or ".." in names:
        raise Failed(f"{path!r} has to begin with / and be without ..; write the whole path")
    return "/" + "/".join(names)


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def require_apart(settings: dict[str, Any], paths: list[str]) -> None:
    """A restore of what holds the backups themselves would delete those that came after the snapshot."""
    for path in map(clean, paths):
        for kept in (settings["state_dir"], settings.get("directory", settings["state_dir"])):
            if is_within(path, kept) or is_within(kept, path):
                raise Failed(f"{path} and the backups themselves, {kept}, lie one in the other; take it out of "
                             "backup_more_paths, or name there the folders beside the backups")  # fmt: skip


# --- The steps ---


def init(repository: Repository, _: argparse.Namespace) -> dict[str, Any]:
    state = repository.state
    repository.adopt_password()
    if state.read("repository"):
        return {}
    try:
        repository.id()
        print("taken up: the repository was there")
    except Failed:
        # restic refuses where something is, so that this never replaces a repository that does not open.
        try:
            repository.run("init")
        except Failed as failure:
            raise Failed(f"{failure}; {SECRET_CHANGED}") from failure
        print("made")
    repository.remember()
    snapshots = repository.snapshots()
    if snapshots:
        # A host that was built anew: its first backup has to wait until the operator has restored.
        state.write("backup", {"ok": True, "success": moment(snapshots[-1]["time"]), "duration": 0})
    return {}


def backup(repository: Repository, _: argparse.Namespace) -> dict[str, Any]:
    settings = repository.settings
    missing = [path for path in paths_of(settings) if not os.path.lexists(path)]
    if missing:
        raise Failed(f"{', '.join(missing)} should be backed up and is not there")
    require_apart(settings, paths_of(settings))
    repository.require_room()
    repository.require_whole()
    said = repository.run("backup", "--json", f"--host={settings['host']}", *paths_of(settings), *ACCOUNTS)
    summary = json.loads(said.strip().splitlines()[-1])
    repository.run("check")
    facts = {"bytes": summary["total_bytes_processed"], "files": summary["total_files_processed"]}
    newest = repository.snapshots()[-1]["id"]
    repository.remember(**{newest: facts})
    print(f"snapshot {newest[:8]}: {facts['files']} files, {facts['bytes']} bytes")
    return facts


def check(repository: Repository, _: argparse.Namespace) -> dict[str, Any]:
    repository.require_room()
    repository.require_whole()
    # First what is quickly seen: restic asks for minutes again and again for a file that is not there.
    repository.run("check")
    repository.run("check", "--read-data")
    if not repository.state.read("backup").get("ok"):
        print("every byte is right; nothing is forgotten, since the last backup failed")
        return {}
    keep = [f"--keep-{period}={count}" for period, count in repository.settings["keep"].items()]
    # Of a day only the last snapshot is kept: a bad one must not replace a good one before anybody can have noticed.
    repository.run("forget", f"--host={repository.settings['host']}", "--keep-within=7d", *keep,
                   "--group-by=host", "--prune")  # fmt: skip
    repository.remember()
    print(f"every byte is right; {len(repository.snapshots())} snapshots are kept")
    return {}


def rehearse(repository: Repository, _: argparse.Namespace) -> dict[str, Any]:
    repository.require_whole()
    snapshot = choose(repository, "latest")
    with repository.state.scratch() as scratch:
        repository.restore(snapshot["id"], scratch, [])
        compared, changed, different = compare(scratch, snapshot["paths"], moment(snapshot["time"]))
    if different:
        raise Failed(f"{len(different)} of {compared} differ from snapshot {snapshot['id'][:8]}: {different[:10]}")
    if not compared:
        raise Failed(f"all {changed} files changed since snapshot {snapshot['id'][:8]}: back up, then rehearse")
    repository.remember(**{snapshot["id"]: {"proven": time.time()}})
    print(f"snapshot {snapshot['id'][:8]}: {compared} equal byte for byte, {changed} changed since it was made")
    return {"compared": compared, "changed": changed}


def restore(repository: Repository, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = repository.settings
    only = settings["parts"] if arguments.only is None else arguments.only
    wanted = [path for name in only for path in expand(settings, name)]
    require_apart(settings, wanted)
    snapshot = choose(repository, arguments.snapshot)
    require_held(snapshot, wanted)
    with repository.state.scratch() as scratch:
        repository.restore(snapshot["id"], scratch, [*wanted, *ACCOUNTS])
        missing = [path for path in wanted if not os.path.lexists(f"{scratch}{path}")]
        if missing:
            raise Failed(f"snapshot {snapshot['id'][:8]} does not hold {', '.join(missing)}; nothing was changed")
        for path in wanted:
            require_no_links(path, snapshot["paths"])
        give_to_the_same_accounts(scratch)
        planned = [line for path in wanted for line in put(scratch, path, "--dry-run")]
        may_delete = allowed(arguments, planned)
        if arguments.dry_run:
            changed = planned
        else:
            # The store's password is today's, whatever it was when the snapshot was made.
            password = Path(settings["password_file"]).read_text()
            changed = [line for path in wanted for line in put(scratch, path, f"--max-delete={may_delete}")]
            if Path(settings["password_file"]).parent.is_dir():
                replace(Path(settings["password_file"]), password, 0o600)
    for line in changed:
        print(line)
    said = "would be restored" if arguments.dry_run else "restored"
    deleted = len(deletions(changed))
    print(f"{said} from snapshot {snapshot['id'][:8]} of {snapshot['time'][:19]}: {len(changed)} changes, "
          f"{deleted} of them deletions")  # fmt: skip
    return {}


def show(repository: Repository, arguments: argparse.Namespace) -> dict[str, Any]:
    facts = repository.state.read("repository").get("snapshots", {})
    rows = [
        {
            "snapshot": each["id"][:8],
            "made": moment(each["time"]),
            "paths": each["paths"],
            **{key: facts.get(each["id"], {}).get(key) for key in ("bytes", "files", "proven")},
        }
        for each in repository.snapshots()
    ]
    checked = repository.state.read("check")
    if arguments.json:
        print(json.dumps({"host": repository.settings["host"], "checked": checked, "snapshots": rows}, indent=1))
        return {}
    print(f"{'snapshot':10}{'made (UTC)':18}{'age':>8}{'files':>8}{'MB':>9}  last proven by a restore (UTC)")
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f}" if row["bytes"] is not None else "-"
        age = f"{(time.time() - row['made']) / 3600:.1f} h"
        print(
            f"{row['snapshot']:10}{utc(row['made']):18}{age:>8}{row['files'] or '-':>8}{size:>9}  {utc(row['proven'])}"
        )
    print(f"every byte last read and right (UTC): {utc(checked.get('success'))}")
    print("things: " + "; ".join(f"{name}: {' '.join(paths)}" for name, paths in repository.settings["parts"].items()))
    return {}


def utc(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M") if seconds else "never"


def choose(repository: Repository, wanted: str) -> dict[str, Any]:
    snapshots = repository.snapshots()
    found = [each for each in snapshots if wanted == "latest" or (wanted and each["id"].startswith(wanted))]
    if not found or (wanted != "latest" and len(found) > 1):
        raise Failed(f"{len(found)} of {len(snapshots)} snapshots are called {wanted!r}; see: bedplate-backup list")
    return found[-1]


def expand(settings: dict[str, Any], name: str) -> list[str]:
    """A part by its name, or a path. Raises Failed for one that holds more than was ever backed up."""
    parts = settings["parts"]
    if name in parts:
        return [clean(path) for path in parts[name]]
    if not name.startswith("/"):
        raise Failed(f"{name!r} is neither a path nor one of {', '.join(parts)}")
    path = clean(name)
    own = [clean(each) for each in paths_of(settings)]
    below = [each for each in own if is_within(each, path)]
    if below and path not in own:
        raise Failed(f"{name!r} holds more than was backed up, and that would be deleted; name {' or '.join(below)}")
    return [path]


def require_held(snapshot: dict[str, Any], wanted: list[str]) -> None:
    """Each path is one of those that were backed up, or below one. Who has which number is none of them."""
    held = [path for path in snapshot["paths"] if path not in ACCOUNTS]
    strange = [path for path in wanted if not any(is_within(path, own) for own in held)]
    if strange:
        raise Failed(f"snapshot {snapshot['id'][:8]} does not hold {', '.join(strange)}, only {', '.join(held)} and "
                     "what is below; nothing was changed")  # fmt: skip


def require_no_links(path: str, held: list[str]) -> None:
    """Below what was backed up no folder on the way is a link by now: it would be written to where the link leads."""
    own = max((each for each in held if is_within(path, each)), key=len)
    above = path
    while above != own:
        above = os.path.dirname(above)
        if os.path.islink(above):
            raise Failed(f"{above} is a link to {os.readlink(above)} on this host, so {path} lies elsewhere; restore "
                         f"{above}, or remove the link; nothing was changed")  # fmt: skip


def deletions(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(DELETING)]


def allowed(arguments: argparse.Namespace, planned: list[str]) -> int:
    """How many deletions the operator agrees to. Raises Failed if the plan has more, unless it only is to be shown."""
    most = MOST_DELETIONS if arguments.may_delete is None else arguments.may_delete
    found = deletions(planned)
    if len(found) > most and not arguments.dry_run:
        first = ", ".join(line.split(maxsplit=1)[1] for line in found[:5])
        raise Failed(
            f"this would delete {len(found)} files and folders that the snapshot does not hold, more than {most}: "
            f"{first} …; nothing was changed. See all with --dry-run (playbook: --check); if they may go, say "
            f"--may-delete {len(found)} (playbook: -e may_delete={len(found)})"
        )
    return most


# --- Comparing and placing files ---


def compare(scratch: Path, paths: list[str], made: float) -> tuple[int, int, list[str]]:
    """Compare the host with scratch, leaving out what differs since it changed after `made`, in seconds since 1970.

    Returns how many were compared, how many left out, and the paths that differ though nobody changed them.
    """
    compared, changed, different = 0, 0, []
    for path in sorted(everything(scratch, paths)):
        live, restored = look(path), look(f"{scratch}{path}")
        if live and stat.S_ISSOCK(live.st_mode):
            continue
        if live and restored and equal(path, live, f"{scratch}{path}", restored):
            compared += 1
        elif (live.st_ctime if live else last_change_above(path)) >= made:
            changed += 1
        else:
            compared += 1
            different.append(path)
    return compared, changed, different


def everything(scratch: Path, paths: list[str]) -> set[str]:
    """Paths of all that is on the host or on scratch, as they are on the host."""
    found = set()
    for root, cut in [(path, 0) for path in paths] + [(f"{scratch}{path}", len(str(scratch))) for path in paths]:
        found.add(root[cut:])
        for folder, folders, files in os.walk(root):
            found |= {os.path.join(folder, name)[cut:] for name in folders + files}
    return found


def look(path: str) -> os.stat_result | None:
    return os.lstat(path) if os.path.lexists(path) else None


def last_change_above(path: str) -> float:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.lstat(path).st_ctime


def equal(path: str, live: os.stat_result, copy: str, restored: os.stat_result) -> bool:
    if (live.st_mode, live.st_uid, live.st_gid) != (restored.st_mode, restored.st_uid, restored.st_gid):
        return False
    if stat.S_ISLNK(live.st_mode):
        return os.readlink(path) == os.readlink(copy)
    return not stat.S_ISREG(live.st_mode) or filecmp.cmp(path, copy, shallow=False)


def give_to_the_same_accounts(scratch: Path) -> None:
    """By name: the numbers may differ between the host that was backed up and this one."""
    users, groups = (renumbered(Path(f"{scratch}{path}"), Path(path)) for path in ACCOUNTS)
    for folder, folders, files in os.walk(scratch):
        for path in (os.path.join(folder, name) for name in folders + files):
            status = os.lstat(path)
            owner = users.get(status.st_uid, status.st_uid), groups.get(status.st_gid, status.st_gid)
            if owner != (status.st_uid, status.st_gid):
                os.chown(path, *owner, follow_symlinks=False)
                # A change of owner takes set-group-id away.
                if not stat.S_ISLNK(status.st_mode):
                    os.chmod(path, stat.S_IMODE(status.st_mode))


def renumbered(before: Path, now: Path) -> dict[int, int]:
    """Numbers of the accounts of both files that differ, by the number they had."""
    old, new = numbers(before), numbers(now)
    return {old[name]: new[name] for name in old.keys() & new.keys() if old[name] != new[name]}


def numbers(path: Path) -> dict[str, int]:
    fields = [line.split(":") for line in path.read_text().splitlines() if line.count(":") >= 3]
    return {each[0]: int(each[2]) for each in fields if each[2].isdigit()}


def put(scratch: Path, path: str, *options: str) -> list[str]:
    """Make what is at `path` what is on scratch; what changes gets today's date, so that its programs are restarted.

    Into the folder above: so a link, or a file in place of a folder, is replaced and never followed.
    """
    above = os.path.dirname(path).rstrip("/")
    # Where that is not there yet, a dry run compares with a folder that is empty.
    target = f"{above}/" if os.path.isdir(f"{above}/") or "--dry-run" not in options else f"{scratch}/empty/"
    os.makedirs(target, exist_ok=True)
    same = ["-rlpgoDHAX", "--checksum", "--delete", "--numeric-ids", "--itemize-changes", "--omit-dir-times"]
    done = subprocess.run(
        ["rsync", *same, *options, "--8-bit-output", "--out-format=%i %n", f"{scratch}{path}", target],
        capture_output=True, text=True, errors="surrogateescape", check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{path} is restored in part only: {done.stderr.strip()}")
    lines = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return [f"{what:12}{above}/{name}" for what, name in lines]


# --- What Prometheus is told ---


def tell(state: State, folder: Path) -> None:
    """Write the figures for the node exporter, whole or not at all; without an exporter there is nobody to tell."""
    if not folder.is_dir():
        return
    results = {step: state.read(step) for step in TOLD}
    snapshots = state.read("repository").get("snapshots", {})
    lines = [
        *series("ok", "1 if the last try succeeded", {s: int(r["ok"]) for s, r in results.items() if r}),
        *series("success_timestamp_seconds", "Last success, 0 is never",
                {step: result.get("success", 0) for step, result in results.items()}),
        *series("duration_seconds", "Of the last success",
                {step: result["duration"] for step, result in results.items() if "duration" in result}),
        *single("size_bytes", "Of all files in the newest snapshot", results["backup"].get("bytes")),
        *single("files", "In the newest snapshot", results["backup"].get("files")),
        *single("snapshots", "That can be restored", len(snapshots)),
    ]  # fmt: skip
    replace(folder / "bedplate_backup.prom", "\n".join(lines) + "\n", 0o644)


def series(name: str, words: str, values: dict[str, float]) -> list[str]:
    head = [f"# HELP bedplate_backup_{name} {words}.", f"# TYPE bedplate_backup_{name} gauge"]
    return head + [f'bedplate_backup_{name}{{step="{step}"}} {value}' for step, value in values.items()]


def single(name: str, words: str, value: float | None) -> list[str]:
    head = [f"# HELP bedplate_backup_{name} {words}.", f"# TYPE bedplate_backup_{name} gauge"]
    return [*head, f"bedplate_backup_{name} {value}"] if value is not None else []


# --- The command line ---

STEPS = {"init": init, "backup": backup, "check": check, "rehearse": rehearse, "restore": restore, "list": show}


def take(step: str, repository: Repository, arguments: argparse.Namespace) -> None:
    """Do one step and keep its outcome. Raises Failed."""
    state, began, before = repository.state, time.time(), repository.state.read(step)
    if step == "init" and state.read("repository") and not repository.has_new_password():
        print("known")
        return
    try:
        with repository.reached():
            facts = STEPS[step](repository, arguments)
    except Exception as error:
        if step in TOLD:
            state.write(step, before | {"ok": False, "tried": began, "said": str(error)})
        raise
    if step in TOLD:
        done = {"ok": True, "tried": began, "success": time.time(), "duration": round(time.time() - began, 3)}
        state.write(step, before | done | {"said": ""} | facts)


def count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(prog="bedplate-backup", description="Backups of this host.")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--json", action="store_true", help="list: as JSON")
    parser.add_argument("--snapshot", default="latest", help="restore: its first letters, as list shows them")
    parser.add_argument("--only", action="append", metavar="THING", help="restore: a part or a path; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="restore: only show what would change and be deleted")
    parser.add_argument("--may-delete", type=count, metavar="COUNT",
                        help="restore: agree to so many deletions of what the snapshot does not hold")  # fmt: skip
    arguments = parser.parse_args()
    settings = json.loads(arguments.settings.read_text())
    state = State(Path(settings["state_dir"]))
    try:
        with state.alone():
            try:
                take(arguments.step, Repository(settings, state), arguments)
            finally:
                tell(state, Path(settings["metrics_dir"]))
    except Failed as failure:
        sys.exit(f"bedplate-backup: {arguments.step}: {failure}")


if __name__ == "__main__":
    main()
