"""What roles choose by filter plugins in Python: each function by itself, without Ansible."""

from __future__ import annotations

import json

import pytest

from plugins.filter.fleet import fleet_hosts
from roles.authority.filter_plugins.authority_names import authority_names
from roles.backup.filter_plugins.backup_plan import parts, quotas, user
from roles.bedplate.filter_plugins.bedplate_bundles import (
    aliased,
    rsync_filter,
    selection,
    signature_files,
    sums,
    undeclared,
    unread,
)
from roles.bedplate.filter_plugins.bedplate_devices import devices
from roles.bedplate.filter_plugins.bedplate_units import instances, units, wrong
from roles.exporters.filter_plugins.exporters_here import exporters_here
from roles.nginx.filter_plugins.nginx_upstreams import drained, tries, webs
from roles.nvidia.filter_plugins.nvidia_driver import generations, packages, refused_gpus, refused_release
from roles.preflight.filter_plugins.preflight_settings import given, read, reasons, refusing
from roles.ufw.filter_plugins.ufw_rules import ufw_addresses
from roles.wheelhouse.filter_plugins.wheelhouse_sets import wheelhouse_sets

BUNDLES = ["cat/1", "digits/1", "digits/2", "ab/1", "a.b/1"]
MANIFESTS = {"files": [{"path": f"/b/{name}/SHA256SUMS"} for name in [*BUNDLES, "dog/3/deeper", "flat"]]}
GPUS = [{"address": "17", "uuid": "GPU-0a", "minor": 1}, {"address": "ca", "uuid": "GPU-0b", "minor": 0}]


@pytest.mark.parametrize(
    ("declared", "served", "missing"),
    [
        (["digits"], ["digits/2", "digits/1"], []),
        (["digits/1", "cat"], ["digits/1", "cat/1"], []),
        (["digits/2", "digits"], ["digits/2", "digits/1"], []),
        (["digits/3", "none", "dog", "none"], [], ["digits/3", "none", "dog"]),
        (["a.b", "b"], ["a.b/1"], ["b"]),
        ([], [], []),
    ],
)
def test_declared_bundles_are_served_in_their_order_and_the_others_told(declared, served, missing):
    told = selection(declared, MANIFESTS, "/b/")

    assert (told["served"], told["missing"]) == (served, missing)


@pytest.mark.parametrize(
    ("alias", "points_to"),
    [
        ("digits/fast=2", "digits/2"),
        ("digits/a-1=x.y", "digits/x.y"),
        ("digits/Fast=2", "digits/Fast=2"),
        ("digits=2", "digits=2"),
        ("digits/fast=2=3", "digits/fast=2=3"),
        (f"digits/{'a' * 33}=2", f"digits/{'a' * 33}=2"),
    ],
)
def test_an_alias_points_to_a_bundle_unless_it_is_written_otherwise(alias, points_to):
    assert aliased([alias]) == [points_to]


def test_what_is_on_a_host_and_not_declared_is_withdrawn_unless_it_is_loaded():
    models = [{"directory": "/var/lib/bedplate/models/hand/2"}, {"directory": "/var/lib/bedplate/models/digits/1"}]
    answer = {"rc": 0, "stdout": json.dumps({"models": models})}
    on_host = ["old/1", "hand/2", "digits/1", ".partial/1", "a/.b", "x", "B/1"]

    assert undeclared(on_host, ["digits/1"], answer) == {"withdrawn": ["B/1", "old/1"], "by_hand": ["hand/2"]}
    assert undeclared(on_host, [], {"rc": 1, "stdout": ""}) == {"withdrawn": [], "by_hand": []}


def test_programs_of_bundles_are_read_by_somebody_before_they_run():
    programs = {"digits/1": ["b", "a"], "digits/2": ["a"], "cat/1": ["c"]}

    assert unread(programs, ["cat"]) == ["digits"]
    assert unread(programs, ["cat", "digits"]) == []
    assert sums(programs) == ["a", "b", "c"]


def test_bundles_are_copied_without_their_signatures_which_are_written():
    assert rsync_filter(["digits/2", "digits/1"]) == [
        "--exclude=SHA256SUMS.sig",
        "--include=/digits/",
        "--include=/digits/2/***",
        "--include=/digits/1/***",
        "--exclude=*",
    ]
    [file] = signature_files({"digits/1": "text"})
    assert (file["path"], file["content"]) == ("/var/lib/bedplate/models/digits/1/SHA256SUMS.sig", "text")


@pytest.mark.parametrize(
    ("declared", "gpus", "engines", "untold"),
    [
        ([], [], ["cpu0"], []),
        ([], GPUS, ["gpu0", "gpu1"], []),
        (["gpu1", "cpu0"], GPUS, ["gpu1", "cpu0"], []),
        (["gpu2"], GPUS, ["gpu2"], ["gpu2"]),
        ([], [GPUS[0] | {"uuid": ""}, GPUS[1]], ["gpu0", "gpu1"], ["gpu0"]),
        ([], [GPUS[0] | {"minor": None}], ["gpu0"], ["gpu0"]),
    ],
)
def test_each_device_has_an_engine_and_one_without_a_working_gpu_is_told(declared, gpus, engines, untold):
    told = devices(declared, gpus)

    assert (told["engines"], told["untold"]) == (engines, untold)
    assert set(told["on_gpus"] + told["on_processors"]) == set(engines)
    assert len(told["files"]) == len(told["on_gpus"]) - len(untold)


def test_a_drop_in_is_of_the_gpu_with_the_engines_number():
    [file] = devices(["gpu1"], GPUS)["files"]

    assert file["path"] == "/etc/systemd/system/bedplate-engine@gpu1.service.d/gpu.conf"
    assert file["vars"] == {"__bedplate_gpu": GPUS[1]}


@pytest.mark.parametrize(("names", "expected"), [(2, ["x@1", "x@2"]), ("1", ["x@1"]), (["gpu0"], ["x@gpu0"]), (0, [])])
def test_a_unit_has_instances_by_number_or_name(names, expected):
    assert instances(names, "x@%s") == expected
    assert units(names, "x@%s", ["/etc/x"]) == [{"name": name, "restart_for": ["/etc/x"]} for name in expected]


def test_wrong_answers_are_told_and_so_is_that_nobody_answered():
    good = {"ok": True, "url": "u1", "model": "m", "wanted": "1", "found": "1"}
    lines = ["noise", json.dumps(good), json.dumps(good | {"ok": False, "url": "u2", "found": "2"})]

    assert wrong({"stdout_lines": lines, "stderr": "x"}) == ["u2, model m: wanted '1', got '2'"]
    assert wrong({"stdout_lines": [], "stderr": "y" + "x" * 300}) == ["no front end could be asked: " + "x" * 300]


def test_upstreams_follow_from_the_inventory_and_the_manual():
    hostvars = {
        "one": {"private_address": "192.0.2.1"},
        "two": {"bedplate_web_address": "127.0.0.1", "bedplate_web_instances": 3},
    }

    told = webs(["one", "two"], hostvars, {"bedplate_web_instances": 2}, 8001)

    assert told == {
        "one": ["192.0.2.1:8001", "192.0.2.1:8002"],
        "two": ["127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003"],
    }
    assert tries(told) == 4


def test_flags_tell_drained_hosts_and_who_drained_them():
    flags = [{"path": "/drained/one", "size": 0}, {"path": "/drained/two", "size": 9}]

    assert drained(flags) == ["one", "two"]
    assert drained(flags, by_rollout=True) == ["two"]


def test_a_gpus_generation_follows_from_its_id_both_ends_included():
    known = [{"name": "a", "first": 1, "last": 2}, {"name": "b", "first": 3, "last": 4}]

    assert generations([{"device": device} for device in (2, 3, 4, 5)], known) == ["a", "b", "b", "unknown"]


def test_packages_of_a_driver_are_of_the_kernels_flavours():
    assert packages(["linux-image-generic", "linux-image-aws"], 580)[:3] == [
        "linux-modules-nvidia-580-server-open-generic",
        "linux-modules-nvidia-580-server-open-aws",
        "nvidia-compute-utils-580-server",
    ]


def test_a_generation_is_refused_for_its_reason_or_its_branch():
    supported = {"old": "too old", "new": 590}
    gpus = [{"address": "17"}, {"address": "ca"}]

    assert refused_gpus(["old", "new"], gpus, supported, 580) == [
        "17 is old: too old",
        "ca is new and needs branch 590",
    ]
    assert refused_gpus(["old", "new"], gpus, supported, 590) == ["17 is old: too old"]
    assert refused_gpus(["old", "new"], gpus, supported, None) == ["17 is old: too old"]


@pytest.mark.parametrize(
    ("here", "kernels", "said"),
    [
        ({"refused": "no"}, ["x"], ["no"]),
        ({"branches": [590], "ended": {580: 590}}, ["x"], ["branch 580 has ended"]),
        ({"branches": [590, 595], "ended": {}}, ["x"], ["nvidia_branch can be 590 or 595"]),
        ({"branches": [580], "ended": {}}, [], ["install it"]),
        ({"branches": [580], "ended": {}}, ["x"], []),
    ],
)
def test_a_release_is_refused_in_words(here, kernels, said):
    told = refused_release(here, "noble", 580, kernels)

    assert len(told) == len(said)
    assert all(part in sentence for part, sentence in zip(said, told, strict=True))


def test_the_authority_signs_for_names_and_addresses_of_every_balancer():
    hostvars = {
        "one": {"private_address": "192.0.2.1", "nginx_public_address": "198.51.100.1"},
        "two": {"private_address": "192.0.2.2", "nginx_server_name": "two.test"},
    }

    names = authority_names(["one", "two"], hostvars, {"nginx_server_name": "all.test"}, ["more.test", "two.test"])

    assert names == ["all.test", "198.51.100.1", "two.test", "192.0.2.2", "more.test"]


def test_quotas_are_by_the_stores_user_and_from_the_manual_where_nothing_is_set():
    hostvars = {"Gpu.1": {"backup_quota_gib": "5"}, "ops1": {}}
    manual = {"backup_quota_gib": 20, "backup_quota_files": 1000}

    assert user("Gpu.1") == "store--pu-1"
    assert quotas(["Gpu.1", "ops1"], hostvars, manual) == {
        "store--pu-1": {"name": "Gpu.1", "gib": 5.0, "files": 1000},
        "store-ops1": {"name": "ops1", "gib": 20.0, "files": 1000},
    }


def test_a_part_without_paths_is_no_part():
    assert parts({"state": [], "more": ["/srv"]}) == {"more": ["/srv"]}


def test_settings_that_the_report_reads_are_named_once():
    manuals = [{"a_port": 1, "b_on": True, "c_name": "x"}, {"d": 0.5, "named": 3}]

    assert read(["named"], {"web": {}}, manuals) == ["named", "fleet_web", "a_port", "b_on", "d"]
    assert given({"b": None, "c": 1}, ["a", "b"]) == {"b": None}


def test_what_others_would_refuse_is_told_with_the_reason():
    assert reasons({"kepler": "too old", "ada": 580}) == {"kepler": "too old"}
    assert refusing({"noble": {"branches": []}, "trixie": {"refused": "no"}}) == {"trixie": "no"}


def test_hosts_of_the_fleet_are_told_once_in_the_order_of_their_classes():
    groups = {"all": ["x"], "ops": ["one"], "lb": ["two", "one"], "data": []}

    assert fleet_hosts(groups) == ["two", "one"]
    assert fleet_hosts(groups, ["ops", "unknown"]) == ["one"]


def test_an_exporter_is_of_a_host_that_has_one_of_its_groups():
    exporters = [{"service": {"hosts": ["lb", "ops"]}, "n": 1}, {"service": {"hosts": []}, "n": 2}]

    assert [each["n"] for each in exporters_here(exporters, ["ops"])] == [1]
    assert exporters_here(exporters, ["data"]) == []


def test_an_address_may_be_missing():
    assert ufw_addresses(["a", "b"], {"a": {"private_address": "192.0.2.1"}, "b": {}}) == {"a": "192.0.2.1", "b": ""}


@pytest.mark.parametrize(
    ("engines", "gpus", "kind"), [([], [], "cpu"), ([], GPUS, "cuda"), (["cpu0"], GPUS, "cpu"), (["gpu0"], [], "cuda")]
)
def test_a_set_of_wheels_fits_python_and_engines(engines, gpus, kind):
    facts = {"python": {"version": {"minor": 12}}, "nvidia": {"gpus": gpus}}
    its = {"ansible_facts": facts, "bedplate_engines": engines}

    assert wheelhouse_sets(["one", "two"], {"one": its, "two": its}) == [f"cp312-{kind}"]
