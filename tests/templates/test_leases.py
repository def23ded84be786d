"""Every playbook that changes something keeps others away while it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
LOOK = {"check", "list_backups", "preflight", "rehearse", "verify"}
LEASE = {"lease", "end_lease"}
# Refuses a run, and changes nothing.
REFUSE = "one_host"
CHANGING = sorted({path.stem for path in (REPOSITORY / "playbooks").glob("*.yml")} - LOOK - LEASE - {REFUSE})


@pytest.mark.parametrize("name", CHANGING)
def test_a_playbook_that_changes_something_begins_and_ends_with_the_lease(name):
    plays = yaml.safe_load((REPOSITORY / f"playbooks/{name}.yml").read_text())

    if plays[0].get("ansible.builtin.import_playbook") == f"{REFUSE}.yml":
        plays = plays[1:]
    assert plays[0]["ansible.builtin.import_playbook"] == "lease.yml"
    assert plays[-1]["ansible.builtin.import_playbook"] == "end_lease.yml"
    assert plays[0].get("vars") == plays[-1].get("vars")


def test_a_whole_run_takes_it_before_its_first_change_and_keeps_it_to_the_end():
    plays = [play["ansible.builtin.import_playbook"] for play in yaml.safe_load((REPOSITORY / "site.yml").read_text())]

    assert plays[:2] == ["playbooks/preflight.yml", "playbooks/lease.yml"]
    assert plays[-1] == "playbooks/end_lease.yml"


@pytest.mark.parametrize("name", sorted(LOOK))
def test_a_playbook_that_only_looks_stands_beside_any_other(name):
    plays = yaml.safe_load((REPOSITORY / f"playbooks/{name}.yml").read_text())

    assert all("ansible.builtin.import_playbook" not in play for play in plays)
