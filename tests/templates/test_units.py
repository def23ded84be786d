"""Units and settings of the role bedplate, as a host gets them."""

from __future__ import annotations

import re

import pytest
import yaml
from bedplate.engine.settings import EngineSettings
from bedplate.process.settings import load
from exposure import assert_exposure, needs_systemd

UNITS = ["bedplate-web@.service", "bedplate-decode@.service", "bedplate-engine@.service", "bedplate-metrics.service"]
FLEET = {"__bedplate_served": ["digits/2", "digits/1"], "bedplate_engines": ["cpu0", "cpu1"]}


@pytest.fixture
def unit(render):
    return lambda name, **overrides: render("bedplate", f"etc/systemd/system/{name}.j2", **FLEET | overrides)


@pytest.fixture
def settings(render):
    return lambda name, **overrides: yaml.safe_load(render("bedplate", f"etc/bedplate/{name}.j2", **FLEET | overrides))


def values(text, key):
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def seconds(text, key):
    (value,) = values(text, key)
    return int(value.removesuffix("s"))


def test_what_is_optimized_is_read_where_hosts_optimize_and_nowhere_else(settings):
    assert "prepared_dir" not in settings("engine.yaml", bedplate_optimize=False)
    # On GPUs nothing is tried.
    assert "prepared_dir" not in settings("engine.yaml", bedplate_engines=["gpu0"])


def test_the_one_who_writes_native_code_is_no_engine(unit):
    writer, engine = unit("bedplate-optimize@.service"), unit("bedplate-engine@.service")

    assert values(writer, "ReadWritePaths") == ["/var/lib/bedplate/prepared"]
    assert values(writer, "User") != values(engine, "User")
    assert "/var/lib/bedplate" not in values(engine, "ReadWritePaths")[0]


@needs_systemd
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("bedplate-web@.service", 10),
        ("bedplate-decode@.service", 5),
        ("bedplate-engine@.service", 5),
        ("bedplate-optimize@.service", 5),
        ("bedplate-metrics.service", 5),
    ],
)
def test_exposure_stays_below_its_bar(unit, tmp_path, name, most):
    path = tmp_path / name.replace("@", "@1")
    path.write_text(unit(name))

    assert_exposure(path, most)


@pytest.mark.parametrize("name", [*UNITS, "bedplate-web@.socket", "bedplate-metrics.socket"])
def test_stop_and_restart_travel_from_the_target(unit, name):
    assert values(unit(name), "PartOf") == ["bedplate.target"]


def test_target_wants_every_declared_instance(unit):
    assert values(unit("bedplate.target", bedplate_web_instances=3), "Wants") == [
        "bedplate-engine@cpu0.service",
        "bedplate-engine@cpu1.service",
        "bedplate-redis-cache.socket",
        "bedplate-decode@1.service",
        "bedplate-decode@2.service",
        "bedplate-web@1.service",
        "bedplate-web@2.service",
        "bedplate-web@3.service",
        "bedplate-metrics.service",
    ]


def test_webs_stop_before_every_engine_and_after_nginx(unit):
    web = unit("bedplate-web@.service")

    (after,) = values(web, "After")

    assert {"bedplate-engine@cpu0.service", "bedplate-engine@cpu1.service"} < set(after.split())
    assert values(web, "Before") == ["nginx.service"]


def test_a_host_without_memory_gives_up_its_engine_first(unit):
    (engine,) = values(unit("bedplate-engine@.service"), "OOMScoreAdjust")
    others = [values(unit(name), "OOMScoreAdjust") for name in UNITS if "engine" not in name]

    assert int(engine) > 0
    assert not any(others)


@pytest.mark.parametrize("timeout_s", [1, 30, 600])
def test_stops_wait_longer_than_the_slowest_request_and_engines_longest(unit, timeout_s):
    web = unit("bedplate-web@.service", bedplate_request_timeout_s=timeout_s)
    engine = unit("bedplate-engine@.service", bedplate_request_timeout_s=timeout_s)

    # gunicorn itself waits a second over the request timeout.
    assert timeout_s + 1 < seconds(web, "TimeoutStopSec") < seconds(engine, "TimeoutStopSec")


def test_front_end_n_listens_on_the_first_port_plus_n_less_one(unit):
    socket = unit("bedplate-web@.socket", fleet_web={"port": 9121, "count": 9}, bedplate_web_address="127.0.0.1")

    assert values(socket, "ListenStream") == ["127.0.0.1:912%i"]


@pytest.mark.parametrize("name", ["bedplate-web@.socket", "bedplate-metrics.socket", "bedplate-redis-cache.socket"])
def test_nobody_waits_at_the_socket_of_a_program_that_failed(unit, name):
    assert values(unit(name), "FlushPending") == ["yes"]


@pytest.mark.parametrize("name", UNITS)
def test_programs_are_restarted_for_ever(unit, name):
    text = unit(name)

    assert values(text, "Restart") == ["always"]
    assert values(text, "StartLimitIntervalSec") == ["0"]
    assert seconds(text, "RestartSec") <= 5


def test_engine_settings_name_the_bundles_in_their_order(settings):
    assert settings("engine.yaml", bedplate_queue_limit=7, bedplate_batch_wait_ms=2) == {
        "socket_dir": "/run/bedplate/engine",
        "bundles": ["/var/lib/bedplate/models/digits/2", "/var/lib/bedplate/models/digits/1"],
        "threads": 1,
        "pin": True,
        "precision": "float32",
        "queue_limit": 7,
        "batch_wait_ms": 2,
        "metrics_dir": "/run/bedplate/metrics/engine",
        "admin_dir": "/run/bedplate/admin",
        "models_dir": "/var/lib/bedplate/models",
        "prepared_dir": "/var/lib/bedplate/prepared",
        "bundle_signers": "/etc/bedplate/bundle-signers",
    }


CHECKED = {"public_key": "ssh-ed25519 AAAAfleet", "signatures": {"digits/1": "-----BEGIN", "tones/2": "-----BEGIN"}}
CHECKED["programs"] = {"digits/1": ["b" * 64], "digits/2": ["b" * 64, "a" * 64]}


@pytest.mark.parametrize(
    ("signers", "lines"),
    [
        ([], ['fleet namespaces="bedplate-bundle" ssh-ed25519 AAAAfleet']),
        (
            [
                {"name": "ann", "key": "ssh-ed25519 AAAAann a"},
                {"name": "bob", "key": "ssh-rsa AAAAb", "until": "20271231"},
            ],
            [
                'ann namespaces="bedplate-bundle" ssh-ed25519 AAAAann a',
                'bob namespaces="bedplate-bundle",valid-before="20271231" ssh-rsa AAAAb',
            ],
        ),
    ],
)
def test_the_fleet_signs_unless_others_are_named(render, signers, lines):
    declared = {"bedplate_bundle_signers": signers, "__bedplate_checked": CHECKED}

    text = render("bedplate", "etc/bedplate/bundle-signers.j2", **declared)

    assert [line for line in text.splitlines() if not line.startswith("#")] == lines


def test_each_bundle_gets_the_signature_that_was_checked(evaluate):
    files = evaluate("bedplate", "{{ __bedplate_signature_files }}", __bedplate_checked=CHECKED)

    assert [file["path"] for file in files] == [
        "/var/lib/bedplate/models/digits/1/SHA256SUMS.sig",
        "/var/lib/bedplate/models/tones/2/SHA256SUMS.sig",
    ]
    assert {(file["content"], file["group"], file["mode"]) for file in files} == {
        ("-----BEGIN", "bedplate-engine", "0640")
    }


def test_engine_settings_have_aliases_and_a_bound_where_they_are_declared(settings):
    found = settings("engine.yaml", bedplate_aliases=["digits/fast=1", "digits/canary=2"], bedplate_models_memory_mb=3)

    assert found["aliases"] == ["digits/fast=1", "digits/canary=2"]
    assert found["models_memory_bytes"] == 3 << 20


@pytest.mark.parametrize("name", ["engine.yaml", "decode.yaml"])
def test_engines_and_decoders_know_the_programs_that_were_found_and_may_run(settings, name):
    assert settings(name, __bedplate_checked=CHECKED)["code"] == ["a" * 64, "b" * 64]
    assert "code" not in settings(name, __bedplate_checked=CHECKED | {"programs": {}})


@pytest.mark.parametrize(("named", "unread"), [([], ["digits"]), (["digits"], [])])
def test_a_bundle_with_programs_has_to_be_named(evaluate, named, unread):
    declared = {"__bedplate_checked": CHECKED, "bedplate_bundles_with_code": named}

    assert evaluate("bedplate", "{{ __bedplate_unread }}", **declared) == unread


def test_the_program_takes_the_settings_of_a_host(render, tmp_path):
    path = tmp_path / "engine.yaml"
    declared = {"bedplate_aliases": ["digits/fast=1"], "bedplate_models_memory_mb": 3}
    path.write_text(render("bedplate", "etc/bedplate/engine.yaml.j2", **FLEET | declared))

    assert load(EngineSettings, path).aliases == ("digits/fast=1",)


def test_operators_find_sockets_that_only_the_engine_makes_and_no_other_program_reaches(unit, settings, render):
    admin_dir = settings("engine.yaml")["admin_dir"]

    tmpfiles = [line.split() for line in render("bedplate", "etc/tmpfiles.d/bedplate.conf.j2").splitlines()]

    assert ["d", admin_dir, "2750", "bedplate-engine", "bedplate-admin"] in tmpfiles
    assert admin_dir in values(unit("bedplate-engine@.service"), "ReadWritePaths")[0].split()
    for other in ("bedplate-web@.service", "bedplate-decode@.service", "bedplate-metrics.service"):
        assert f"-{admin_dir}" in values(unit(other), "InaccessiblePaths")[0].split()


@pytest.mark.parametrize(
    ("aliases", "refused"),
    [
        ([], []),
        (["digits/fast=1", "digits/canary=2"], []),
        (["digits/fast=3"], ["digits/3"]),
        (["tones/fast=1"], ["tones/1"]),
        (["digits/Fast=1", "fast=1"], ["digits/Fast=1", "fast=1"]),
    ],
)
def test_preflight_knows_what_an_alias_may_point_to(evaluate, aliases, refused):
    expression = "{{ __bedplate_aliased | difference(__bedplate_served) }}"

    assert sorted(evaluate("bedplate", expression, **FLEET, bedplate_aliases=aliases)) == refused


def test_web_settings_name_the_socket_of_every_engine(settings):
    assert settings("web.yaml")["engines"] == ["/run/bedplate/engine/cpu0.sock", "/run/bedplate/engine/cpu1.sock"]


def test_front_ends_know_every_decoder_by_a_socket_that_they_alone_reach(unit, settings, render):
    folder = settings("decode.yaml")["socket_dir"]

    given = {"bedplate_decode_instances": 3}

    rendered = render("bedplate", "etc/tmpfiles.d/bedplate.conf.j2", **given)
    tmpfiles = [line.split() for line in rendered.splitlines()]

    assert settings("web.yaml", **given)["decoders"] == [f"{folder}/{number}/decode.sock" for number in (1, 2, 3)]
    for directory in (folder, f"{folder}/1", f"{folder}/2", f"{folder}/3"):
        assert ["d", directory, "2750", "bedplate-decode", "bedplate-web"] in tmpfiles


def test_a_decoder_sees_and_writes_its_own_directory_and_no_other_instances(unit, settings):
    decoder, folder = unit("bedplate-decode@.service"), settings("decode.yaml")["socket_dir"]

    assert values(decoder, "TemporaryFileSystem") == [f"{folder}:ro"]
    assert values(decoder, "BindPaths") == [f"{folder}/%i"]
    assert values(decoder, "ReadWritePaths") == []


def test_who_decodes_is_replaced_as_the_operator_says_and_answers_what_front_ends_expect(settings):
    given = {"bedplate_decode_max_files": 10, "bedplate_decode_max_age_s": 5, "bedplate_max_media_s": 30}

    decode = settings("decode.yaml", **given)

    assert (decode["max_files"], decode["max_age_s"]) == (10, 5)
    assert settings("web.yaml", **given)["max_media_s"] == decode["max_media_s"] == 30


def test_decoders_stop_after_the_front_ends_and_outlast_the_longest_file(unit):
    decoder = unit("bedplate-decode@.service", bedplate_web_instances=3, bedplate_decode_cpu_s=40)

    assert values(decoder, "Before") == ["bedplate-web@1.service bedplate-web@2.service bedplate-web@3.service"]
    assert seconds(decoder, "TimeoutStopSec") > 40


def test_a_decoder_may_take_what_one_file_may_and_its_own_memory(unit, settings):
    given = {"bedplate_decode_memory_mb": 512}

    assert settings("decode.yaml", **given)["max_memory_bytes"] == 512 << 20
    assert values(unit("bedplate-decode@.service", **given), "MemoryMax") == ["768M"]


def test_what_decodes_reaches_no_secret_no_model_and_no_device(unit):
    decoder = unit("bedplate-decode@.service")

    hidden = values(decoder, "InaccessiblePaths")[0].split()
    assert {"-/var/lib/bedplate", "-/etc/bedplate/credentials", "-/run/bedplate/engine"} <= set(hidden)
    assert (values(decoder, "LoadCredential"), values(decoder, "PrivateDevices")) == ([], ["yes"])
    assert values(decoder, "RestrictAddressFamilies") == ["AF_UNIX"]


@pytest.mark.parametrize("name", UNITS)
def test_the_log_is_sorted_by_the_name_of_the_program(unit, name):
    assert values(unit(name), "SyslogIdentifier") == [re.split(r"[@.]", name)[0]]


def test_metrics_expects_every_declared_unit_where_it_tells_its_figures(settings):
    web, engine = settings("web.yaml"), settings("engine.yaml")

    sockets = settings("metrics.yaml", bedplate_web_instances=3)["sockets"]

    assert sockets == [
        f"{web['metrics_dir']}/web@1.sock",
        f"{web['metrics_dir']}/web@2.sock",
        f"{web['metrics_dir']}/web@3.sock",
        f"{engine['metrics_dir']}/engine@cpu0.sock",
        f"{engine['metrics_dir']}/engine@cpu1.sock",
    ]


def test_every_front_end_knows_its_number(unit):
    assert values(unit("bedplate-web@.service"), "ExecStart")[0].endswith(" --instance %i")


@pytest.mark.parametrize(("program", "directory"), [("web", "web.yaml"), ("engine", "engine.yaml")])
def test_figures_are_told_where_the_program_may_write_and_only_metrics_may_look(
    unit, settings, render, program, directory
):
    told_in = settings(directory)["metrics_dir"]

    (writable,) = values(unit(f"bedplate-{program}@.service"), "ReadWritePaths")
    tmpfiles = [line.split() for line in render("bedplate", "etc/tmpfiles.d/bedplate.conf.j2").splitlines()]

    assert told_in in writable.split()
    assert ["d", told_in, "2750", f"bedplate-{program}", "bedplate-metrics"] in tmpfiles


@pytest.mark.parametrize("come", [["ops"], []])
def test_metrics_listens_where_prometheus_looks_for_it(unit, come):
    socket = unit("bedplate-metrics.socket", fleet_bedplate_metrics={"port": 7, "from": come})

    assert values(socket, "ListenStream") == ["192.0.2.1:7"]


@pytest.mark.parametrize(("data", "socket"), [(["ops1"], "/run/bedplate/redis/cache.sock"), ([], None)])
def test_front_ends_share_a_cache_where_there_is_one(settings, data, socket):
    found = settings("web.yaml", groups={"data": data}, bedplate_cache_memory_mb=2, bedplate_cache_ttl_s=60)

    assert found.get("cache_socket") == socket
    assert (found["cache_memory_bytes"], found["cache_ttl_s"]) == (2 << 20, 60)


@pytest.mark.parametrize(
    ("declared", "served"),
    [
        (["digits"], ["digits/2", "digits/1"]),
        (["digits/1", "tones"], ["digits/1", "tones/1.0-rc1"]),
        (["digits/1", "digits"], ["digits/1", "digits/2"]),
    ],
)
def test_bundles_are_declared_by_name_or_by_version(render, declared, served):
    found = ["digits/1", "digits/2", "tones/1.0-rc1", "tones/1.0-rc1/nested", "digit"]
    manifests = {"files": [{"path": f"/bundles/{path}/SHA256SUMS"} for path in found]}
    overrides = {"bedplate_bundles_dir": "/bundles", "__bedplate_manifests": manifests}

    text = render("bedplate", "etc/bedplate/engine.yaml.j2", bedplate_bundles=declared, **overrides)

    assert yaml.safe_load(text)["bundles"] == [f"/var/lib/bedplate/models/{path}" for path in served]
