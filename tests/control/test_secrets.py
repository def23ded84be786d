"""The secrets of an inventory: made once, closed, long, shown to nobody; what is there stays."""

from __future__ import annotations

import pytest


def test_they_are_made_once_closed_and_long(prepared, changed):
    made, kept = prepared.opened(), prepared.secrets.read_bytes()

    again = prepared.prepare()

    assert kept.startswith(b"$ANSIBLE_VAULT;")
    assert len(made) >= 6
    assert len(set(made.values())) == len(made)
    assert min(map(len, made.values())) >= 43
    assert again.returncode == 0
    assert changed(again) == 0
    assert prepared.secrets.read_bytes() == kept


def test_a_secret_that_a_new_version_needs_is_added_and_the_others_stay(prepared):
    made = prepared.opened()
    older = {name: value for name, value in made.items() if name != "secret_backup"} | {"secret_of_the_operator": "own"}
    prepared.close(older)

    run = prepared.prepare()

    now = prepared.opened()
    assert run.returncode == 0, run.stdout
    assert {name: now[name] for name in older} == older
    assert len(now.pop("secret_backup")) >= 43
    assert now == older


@pytest.mark.parametrize("value", ["changeme" * 6, "Change-Me" + "x" * 40, "x" * 42])
def test_a_placeholder_is_refused_by_its_name(prepared, value):
    prepared.close(prepared.opened() | {"secret_api_key": value})

    refused = prepared.prepare()

    assert refused.returncode != 0
    assert "secret_api_key in" in " ".join(refused.stdout.split())


def test_another_vaults_password_is_told_and_nothing_is_made_anew(prepared):
    kept = prepared.secrets.read_bytes()
    prepared.password.write_text("another-password")

    refused = prepared.prepare()

    assert refused.returncode != 0
    assert "BEDPLATE_VAULT_PASSWORD_FILE" in refused.stdout
    assert prepared.secrets.read_bytes() == kept


@pytest.mark.parametrize("run", ["control", "prepared"])
def test_no_secret_is_shown_however_loud_the_run_is(request, run):
    """Neither by the run that makes them nor by the next, which knows them."""
    inventory = request.getfixturevalue(run)

    loud = inventory.prepare("-vvv", "--diff")

    said = loud.stdout + loud.stderr
    assert loud.returncode == 0, said
    assert "no_log" in said
    assert [name for name, value in inventory.opened().items() if value in said] == []
