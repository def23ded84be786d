"""The group of inference hosts was called `gpu`. An inventory that still says so is refused with the lines to edit.

Read from the files as they are, since hosts of a group that no play knows are never asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from tools.preflight.hosts import CONTROL, Finding, Host
from tools.preflight.placeholders import COMMENT, files

OLD, NEW = "gpu", "inference"
# Of a file of settings: in a list, as those of fleet_…, or in an expression. Devices are gpu0, gpu1 …
IN_SETTINGS = re.compile(rf"[\[,]\s*{OLD}\s*[],]|^\s*-\s*{OLD}\s*$|['\"]{OLD}['\"]|\bgroups\.{OLD}\b")


def judge(hosts: list[Host], inventory: Path) -> Iterator[Finding]:
    """One finding for each file that has the old name, in its lines or as its own."""
    found = list(_found(inventory))
    if not found and any(OLD in host.groups for host in hosts):
        found = [(f"{inventory}", f"Rename the group to '{NEW}', with what is set for it.")]
    for place, step in found:
        yield Finding(CONTROL, "group", f"the group '{OLD}'", f"its name of today, '{NEW}'", step, place=place)


def _found(inventory: Path) -> Iterator[tuple[str, str]]:
    for path in files(inventory):
        text = path.read_text()
        lines = _groups(text) if path.name == "hosts.yml" else []
        lines += [
            number
            for number, line in enumerate(text.splitlines(), 1)
            if IN_SETTINGS.search(COMMENT.sub("", line)) and number not in lines
        ]
        if lines:
            yield f"{path}:{', '.join(map(str, sorted(lines)))}", f"Write '{NEW}' in place of '{OLD}'."
    for path in sorted((inventory / "group_vars").glob("*")):
        if path.name in (OLD, f"{OLD}.yml", f"{OLD}.yaml"):
            yield str(path), f"Rename it: {NEW}{path.name.removeprefix(OLD)}."


def _groups(text: str) -> list[int]:
    """Lines in which a list of hosts declares the group; a host may have the name."""
    lines: list[int] = []
    waiting = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.MappingNode):
            continue
        for key, value in node.value:
            waiting.append(value)
            if key.value == "children" and isinstance(value, yaml.MappingNode):
                lines += [name.start_mark.line + 1 for name, _ in value.value if name.value == OLD]
    return lines
