"""Plant every fault of tests/faults and see that a test notices it: python -m tests.faults [WORD …]

A WORD is a role, or a part of a fault's sentence. Each fault is planted in a copy of the repository, where tests of
templates look at it first. Then the role's playbook brings it onto the hosts that `molecule converge -s site` made, and
the role's tests ask them; a file that is refused before it lands is noticed too. Afterwards the role itself heals the
hosts, and the test that noticed has to pass again. The score is in build/faults.json, kept after each fault.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

from tests.faults.catalogue import FOLDER, ROOT, Fault, Tree, defines, read

REPORT = ROOT / "build/faults.json"
RINGS = ["templates", "hosts"]
TIMEOUT_S = 900
AGAIN = "again"
MISSED = "MISSED"
OF_HOSTS = ["--sudo", "--ssh-config=.bedplate/molecule/ssh_config", "--authority=molecule/inventory/authority/ca.crt"]


def main() -> int:
    arguments = parse_arguments()
    report = arguments.report
    known = {(one["role"], one["name"]): one for one in json.loads(report.read_text())} if report.exists() else {}
    every = read()
    chosen = [fault for fault in every if is_chosen(fault, arguments.words)]
    if arguments.only_missed:
        chosen = [fault for fault in chosen if not known.get((fault.role, fault.name), {}).get("caught")]
    rings = [arguments.ring] if arguments.ring else RINGS
    with tempfile.TemporaryDirectory(prefix="bedplate-faults-") as folder:
        tree = Tree(Path(folder))
        chosen.sort(key=lambda fault: (fault.role, fault.play))
        for _, faults in groupby(chosen, lambda fault: (fault.role, fault.play)):
            run_play_of(tree, list(faults), rings, known, report, arguments.together)
    # Those that are no more are forgotten.
    results = [known[fault.role, fault.name] for fault in every if (fault.role, fault.name) in known]
    report.write_text(json.dumps(results, indent=2, ensure_ascii=False))
    missed = [fault for fault in chosen if not known.get((fault.role, fault.name), {}).get("caught")]
    print_table(results, len(every))
    print(f"all of it: {report}")
    return 1 if missed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__.split("\n\n")[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="a role, or a part of a fault's sentence")
    parser.add_argument("--ring", choices=RINGS, help="only this one")
    parser.add_argument("--only-missed", action="store_true", help="those that were missed, or not tried yet")
    parser.add_argument(
        "--together", action="store_true", help="many at once on hosts: quicker, and one may hide another"
    )
    parser.add_argument("--report", type=Path, default=REPORT, help="where the results are kept (%(default)s)")
    return parser.parse_args()


def is_chosen(fault: Fault, words: list[str]) -> bool:
    roles = {path.stem for path in FOLDER.glob("*.yml")}
    return not words or fault.role in words or any(word in fault.name for word in words if word not in roles)


def run_play_of(tree: Tree, faults: list[Fault], rings: list[str], known: dict, report: Path, together: bool) -> None:
    """Faults that one playbook brings onto hosts."""
    on_hosts = "hosts" in rings and faults[0].play
    if on_hosts:
        heal(tree, faults[0])
    if together and on_hosts:
        try_together(tree, faults, known, report)
        return
    for fault in faults:
        for ring, attempt in (("templates", try_templates), ("hosts", try_hosts)):
            if ring in rings and (ring == "templates" or fault.tests):
                began = time.monotonic()
                keep(fault, ring, attempt(tree, fault), time.monotonic() - began, known, report)
    if on_hosts and (changed := play(tree, faults[-1])[1]):
        raise SystemExit(f"the hosts do not stay as they are without a fault:\n{changed}")


def keep(fault: Fault, ring: str, noticed: str, seconds: float, known: dict, report: Path) -> None:
    nothing = {"role": fault.role, "name": fault.name, "templates": None, "hosts": None, "seconds": {}}
    result = known.setdefault((fault.role, fault.name), nothing)
    result[ring] = noticed
    result["seconds"][ring] = round(seconds)
    # Where a host shows the fault, a test of hosts has to notice it.
    result["caught"] = is_caught(result["hosts" if fault.tests else "templates"])
    report.write_text(json.dumps(list(known.values()), indent=2, ensure_ascii=False))
    print(f"{fault.role}: {fault.name}\n    {ring}, {seconds:.0f} s: {noticed}", flush=True)


def try_together(tree: Tree, faults: list[Fault], known: dict, report: Path) -> None:
    """All that have a test of their own at once. What is not noticed like this is tried alone, by the next run."""
    began = time.monotonic()
    batch = {}
    for fault in faults:
        file = next((file for file in fault.tests if file != AGAIN and defines(fault.by, ROOT / file)), None)
        if file and f"{file}::{fault.by}" not in batch:
            batch[f"{file}::{fault.by}"] = fault
    for fault in batch.values():
        on_every_host(fault, fault.before)
        tree.plant(fault)
    refused, _ = play(tree, faults[0])
    failed = [] if refused else run_each_folder(tree, list(batch), faults[0].hosts)
    for fault in batch.values():
        tree.mend(fault)
    heal(tree, faults[0])
    for fault in batch.values():
        on_every_host(fault, fault.after)
    still = run_each_folder(tree, failed, faults[0].hosts)
    noticed = {test.split("[")[0]: test for test in reversed(failed) if test not in still}
    for test, fault in batch.items():
        if test in noticed:
            keep(fault, "hosts", noticed[test], (time.monotonic() - began) / len(noticed), known, report)


def run_each_folder(tree: Tree, tests: list[str], hosts: tuple[str, ...]) -> list[str]:
    # Last those that plant faults of their own.
    in_order = sorted(tests, key=lambda test: ("test_refusals" in test, "tests/fleet/" in test))
    folders = groupby(in_order, lambda test: str(Path(test.split("::")[0]).parent))
    return [failed for _, names in folders for failed in run_tests(tree, list(names), hosts)]


def try_templates(tree: Tree, fault: Fault) -> str:
    tree.plant(fault)
    try:
        noticed = ask(tree, fault.templates, fault)
    finally:
        tree.mend(fault)
    return verdict(tree, noticed, fault)


def try_hosts(tree: Tree, fault: Fault) -> str:
    on_every_host(fault, fault.before)
    tree.plant(fault)
    noticed = refused = ""
    try:
        refused, _ = play(tree, fault) if fault.play else ("", "")
        if not refused:
            noticed = ask(tree, fault.tests, fault)
    finally:
        tree.mend(fault)
    if fault.play:
        heal(tree, fault)
    on_every_host(fault, fault.after)
    return f"refused: {refused}" if refused else verdict(tree, noticed, fault)


def ask(tree: Tree, tests: tuple[str, ...], fault: Fault) -> str:
    """The first test that fails; empty when all pass. Each folder in a process of its own: not all go together."""
    first = [f"{file}::{fault.by}" for file in tests if file != AGAIN and defines(fault.by, ROOT / file)]
    folders = [list(names) for _, names in groupby(tests, lambda test: str(Path(test).parent))]
    for asked in [first, *folders]:
        if asked == [AGAIN]:
            if play(tree, fault)[1]:
                return AGAIN
        elif asked and (failed := run_tests(tree, asked, fault.hosts, "-x")):
            return failed[0]
    return ""


def verdict(tree: Tree, noticed: str, fault: Fault) -> str:
    """A test that fails without the fault as well has not noticed it."""
    if noticed and noticed != AGAIN and run_tests(tree, [noticed], fault.hosts):
        return f"{MISSED}: {noticed} fails without the fault too"
    return noticed or MISSED


def run_tests(tree: Tree, tests: list[str], hosts: tuple[str, ...], *options: str) -> list[str]:
    """Those that fail."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *options]
    if any(test.startswith("tests/host/") for test in tests):
        command += [*OF_HOSTS, "--hosts=" + ",".join(f"ssh://{host}" for host in hosts)]
    done = run(tree, [*command, *tests])
    failed = re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode and not failed:
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return failed


def play(tree: Tree, fault: Fault) -> tuple[str, str]:
    """Why the run was refused, and the lines of what it changed; both empty where they are not so."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    done = run(tree, [program, f"--inventory={tree.folder}/molecule/inventory", *fault.play])
    recap = re.findall(r"^\S+ +: ok=.*$", done.stdout, re.MULTILINE)
    if done.returncode == 0:
        return "", "\n".join(line for line in recap if "changed=0" not in line)
    said = re.findall(r"^\[ERROR\]: (Task failed: .*(?:\n[^\n:]+$){0,5})", done.stdout + done.stderr, re.MULTILINE)
    if not said:
        raise SystemExit(f"the run did not begin:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return " ".join(said[-1].split())[:300], ""


def heal(tree: Tree, fault: Fault) -> None:
    refused, _ = play(tree, fault)
    if refused:
        raise SystemExit(f"the hosts do not heal: {refused}")


def on_every_host(fault: Fault, command: str) -> None:
    for host in fault.hosts if command else ():
        ssh = ["ssh", "-F", str(ROOT / ".bedplate/molecule/ssh_config"), host, "sudo", "sh", "-s"]
        subprocess.run(ssh, input=command, check=True, text=True, timeout=60)


def run(tree: Tree, command: list[str]) -> subprocess.CompletedProcess[str]:
    # Of the copy are the roles and the configuration that are wanted.
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    own["PATH"] = f"{Path(sys.executable).parent}:{own['PATH']}"
    # What hosts say of themselves does not change with a fault, and takes a quarter of a run.
    own |= {"ANSIBLE_CACHE_PLUGIN": "jsonfile", "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tree.folder / ".facts")}
    return subprocess.run(
        command,
        cwd=tree.folder,
        env=own,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


def is_caught(noticed: str | None) -> bool:
    return noticed is not None and not noticed.startswith(MISSED)


def print_table(results: list[dict], planted: int) -> None:
    print(f"\n{'role':12} {'caught':>7} {'by templates':>13} {'by hosts':>9} {'seconds':>8}")
    for role, group in groupby(results, lambda one: one["role"]):
        ones = list(group)
        columns = [
            f"{sum(is_caught(one[ring]) for one in ones)}/{sum(one[ring] is not None for one in ones)}"
            for ring in RINGS
        ]
        seconds = sum(sum(one["seconds"].values()) for one in ones)
        score = f"{sum(one['caught'] for one in ones)}/{len(ones)}"
        print(f"{role:12} {score:>7} {columns[0]:>13} {columns[1]:>9} {seconds:>8}")
    print(f"{sum(one['caught'] for one in results)} of {planted} faults are caught")


if __name__ == "__main__":
    sys.exit(main())
