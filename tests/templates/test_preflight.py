"""What the role preflight asks for follows from the other roles: none of their services and settings is forgotten."""

import re
from pathlib import Path

import pytest
import yaml

from tools.preflight import forms

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def told(evaluate):
    """What the role tells its module and its report on a host of these groups."""

    def told(expression, *groups, **settings):
        its = {"hostvars": {"gpu1": settings}}
        host = {"group_names": list(groups), "inventory_hostname": "gpu1", **its, **settings}
        return evaluate("preflight", "{{ " + expression + " }}", **host)

    return told


def test_every_service_says_who_may_hold_its_port(told):
    assert [
        name for name, service in told("__preflight_services", "inference").items() if not service.get("units")
    ] == []


def test_as_many_ports_are_asked_for_as_there_are_front_ends(told):
    assert told("__preflight_services.web.count", "inference") == 2
    assert told("__preflight_services.web.count", "inference", bedplate_web_instances=5) == 5


def test_settings_that_are_compared_exist(told):
    manuals = [yaml.safe_load(path.read_text()) for path in REPOSITORY.glob("roles/*/defaults/main.yml")]
    known = {name for manual in manuals for name in manual} | {"private_address"}
    known |= {"ansible_host", "ansible_port", "ansible_user"}

    assert set(told("__preflight_read", "inference")) - known == set()


def test_every_setting_that_the_report_judges_is_read(told):
    judged = "\n".join(path.read_text() for path in (REPOSITORY / "tools/preflight").glob("*.py"))
    roles = "|".join(path.name for path in (REPOSITORY / "roles").iterdir())

    names = set(re.findall(rf'"((?:{roles})_[a-z_]+)"', judged)) - {"preflight_size"}

    assert len(names) > 15
    assert names - set(told("__preflight_read", "inference")) == set()


def test_only_what_the_inventory_sets_is_compared(told):
    hostvars = {"gpu1": {"private_address": "192.0.2.11", "bedplate_engines": ["cpu0"], "secret_api_key": "x"}}

    assert told("__preflight_set", "inference", hostvars=hostvars) == {
        "private_address": "192.0.2.11",
        "bedplate_engines": ["cpu0"],
    }


@pytest.mark.parametrize(("group", "missing"), [("lb", set()), ("ops", {"bullseye"})])
def test_releases_are_those_of_the_roles_that_a_host_gets(told, group, missing):
    assert set(told("__preflight_base.__base_releases", group)) - set(told("__preflight_releases", group)) == missing


@pytest.mark.parametrize(
    ("groups", "engines", "wanted"), [(["inference"], ["gpu0", "gpu1"], 2), (["inference"], ["cpu0"], 0)]
)
def test_gpus_are_wanted_where_engines_are_declared_for_them(told, groups, engines, wanted):
    assert told("__preflight_gpus", *groups, bedplate_engines=engines) == wanted


def test_no_number_of_gpus_is_wanted_where_engines_follow_from_them(told):
    assert told("__preflight_gpus == omit", "inference", omit="nobody asks")
    assert told("__preflight_gpus", "lb", omit="nobody asks") == 0


@pytest.mark.parametrize(("settings", "required"), [({}, False), ({"nvidia_install": False}, True)])
def test_a_driver_has_to_be_there_where_the_role_nvidia_does_not_install_it(told, settings, required):
    assert told("preflight_driver_required", "inference", **settings) is required


@pytest.mark.parametrize(
    ("settings", "releases"),
    [
        ({}, ["bookworm", "bullseye", "trixie"]),
        ({"nvidia_install": False}, []),
        ({"nvidia_packages": ["nvidia-open"]}, []),
    ],
)
def test_releases_are_refused_that_the_role_nvidia_would_refuse(told, settings, releases):
    assert sorted(told("__preflight_driver_refused", "inference", **settings)) == releases
    assert set(told("__preflight_gpu_refused", "inference")) == {"kepler", "maxwell", "pascal", "volta", "unknown"}


@pytest.mark.parametrize(("group", "size"), [("inference", "production"), ("lb", "small")])
def test_a_host_is_of_a_size_that_there_is(told, group, size):
    assert told("preflight_size", group) == size
    assert size in told("preflight_sizes", group)


def test_every_setting_that_has_a_form_is_read(told):
    read = set(told("__preflight_read", "inference"))

    assert set(forms.FORMS) - read == set()
    manuals = [yaml.safe_load(path.read_text()) or {} for path in REPOSITORY.glob("roles/*/defaults/main.yml")]
    numbers = {name for manual in manuals for name, value in manual.items() if isinstance(value, bool | int | float)}
    assert len(numbers) > 60
    # What preflight itself is told is used before it looks; the others are of the control machine.
    others = ("preflight_", "wheelhouse_", "authority_", "lease_")
    assert {name for name in numbers - read if not name.startswith(others)} == set()
    assert {name for name in numbers & read if forms.form_of(name) is None} == set()
