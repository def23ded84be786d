"""Instances of template units, for `host_units`, and what the front ends answered."""

from __future__ import annotations

import json

ERROR_CHARACTERS = 300


def instances(names, unit):
    """`bedplate-web@%s.service` for each name, or for 1 to N where a number is given."""
    return [unit % name for name in (range(1, int(names) + 1) if isinstance(names, int | str) else names)]


def units(names, unit, paths):
    """[{name, restart_for}]: each of these instances reads the files and folders at these paths when it starts."""
    return [{"name": name, "restart_for": list(paths)} for name in instances(names, unit)]


def wrong(asked):
    """Sentences of what the front ends answered wrongly, or that none could be asked.

    Args:
        asked: {stdout_lines, stderr} of `bedplate canary`, which prints a line of JSON for each question.
    """
    findings = [json.loads(line) for line in asked["stdout_lines"] if line.startswith("{")]
    said = [
        f"{one['url']}, model {one['model']}: wanted '{one['wanted']}', got '{one['found']}'"
        for one in findings
        if not one["ok"]
    ]
    return said or [f"no front end could be asked: {asked['stderr'][-ERROR_CHARACTERS:]}"]


class FilterModule:
    def filters(self):
        return {"bedplate_instances": instances, "bedplate_units": units, "bedplate_wrong": wrong}
