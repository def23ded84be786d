"""Which sets of wheels a fleet needs, and which hosts can have none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def facts(minor, architecture="x86_64"):
    return {"python": {"version": {"major": 3, "minor": minor}}, "architecture": architecture, "nvidia": {"gpus": []}}


def test_every_python_of_the_fleet_gets_its_wheels_once(evaluate):
    minors = {"gpu1": 13, "gpu2": 11, "gpu3": 13}
    hostvars = {name: {"ansible_facts": facts(minor)} for name, minor in minors.items()}

    sets = evaluate("wheelhouse", "{{ __wheelhouse_sets }}", ansible_play_hosts=list(minors), hostvars=hostvars)

    assert sets == ["cp311-cpu", "cp313-cpu"]


@pytest.mark.parametrize(
    ("minor", "architecture", "taken"),
    [(11, "x86_64", True), (14, "x86_64", True), (10, "x86_64", False), (12, "aarch64", False)],
)
def test_a_host_that_no_wheels_are_for_is_refused(evaluate, minor, architecture, taken):
    [require] = [
        task["ansible.builtin.assert"]
        for task in yaml.safe_load((REPOSITORY / "roles/wheelhouse/tasks/main.yml").read_text())
        if "ansible.builtin.assert" in task
    ]

    text = "{{ " + " and ".join(f"({condition})" for condition in require["that"]) + " }}"

    assert evaluate("wheelhouse", text, ansible_facts=facts(minor, architecture)) is taken
