"""What drifts apart unseen: manuals and specifications of roles, and variables that nobody reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (REPOSITORY / "roles").iterdir())
# Read by Ansible and by the playbooks themselves, so they stand in no role's manual.
FLEET_VARIABLES = {"private_address", "test_hosts_dir", "__addresses"}


def read(path):
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def defaults_of(role):
    return read(REPOSITORY / "roles" / role / "defaults/main.yml")


def is_ours(name):
    return not name.startswith("ansible_") and name not in FLEET_VARIABLES


def variables_of(path):
    """A playbook's, an inventory's or a variable file's."""
    content = read(REPOSITORY / path)
    if isinstance(content, list):
        setting = [*content, *(role for play in content for role in play.get("roles", []) if isinstance(role, dict))]
        return {name for each in setting for name in each.get("vars", {})}
    if path.name == "hosts.yml":
        return set(variables_of_group(content["all"]))
    return set(content)


def variables_of_group(group):
    group = group or {}
    for host in group.get("hosts", {}).values():
        yield from host or {}
    for child in group.get("children", {}).values():
        yield from variables_of_group(child)
    yield from group.get("vars", {})


def files_that_set_variables():
    inventories = [*REPOSITORY.glob("inventory/*/"), REPOSITORY / "molecule/inventory"]
    found = [path for inventory in inventories for path in inventory.glob("*_vars/**/*.yml")]
    found += [inventory / "hosts.yml" for inventory in inventories]
    found += REPOSITORY.glob("molecule/*/converge.yml")
    return sorted(path.relative_to(REPOSITORY) for path in found)


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_specification_repeats_its_manual(role):
    options = read(REPOSITORY / "roles" / role / "meta/argument_specs.yml").get("argument_specs", {}).get("main", {})

    specified = {name: option.get("default") for name, option in options.get("options", {}).items()}

    assert specified == defaults_of(role)


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_public_variables_carry_its_name(role):
    assert [name for name in defaults_of(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "tools", "docs", "playbooks"])
def test_every_variable_that_a_command_sets_is_read_by_a_role(folder):
    files = [path for path in (REPOSITORY / folder).rglob("*") if path.suffix in {".py", ".md", ".yml"}]
    # As in -e ufw_rollback_s=40; a playbook's own words (host, thing) have no role's name.
    set_by_command = rf"(?:-e|extra-vars)\W{{1,5}}((?:{'|'.join(ROLES)})_\w+)[=\"']"

    names = {name for path in files for name in re.findall(set_by_command, path.read_text())}

    assert names - {name for role in ROLES for name in defaults_of(role)} == set()


@pytest.mark.parametrize("path", files_that_set_variables(), ids=str)
def test_every_variable_that_is_set_is_read_by_a_role(path):
    known = {name for role in ROLES for name in defaults_of(role)}

    assert {name for name in variables_of(path) if is_ours(name)} - known == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_readme_names_files_and_settings_that_there_are(role):
    path = REPOSITORY / "roles" / role / "README.md"
    text = path.read_text()
    tests = {each.name for each in (REPOSITORY / "tests").rglob("test_*.py")}

    links = [path.parent / link for link in re.findall(r"\]\(([^)#]+)", text)]
    named = [REPOSITORY / each for each in re.findall(r"`((?:molecule|playbooks|tests|tools)/[\w/.]+)`", text)]
    assert [str(each) for each in links + named if not each.exists()] == []
    assert set(re.findall(r"`(test_\w+\.py)`", text)) - tests == set()
    assert set(re.findall(rf"`({role}_\w+)`", text)) - set(defaults_of(role)) == set()
