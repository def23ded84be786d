"""nginx.conf, as each release gets it."""

from __future__ import annotations

import json
import re

import pytest

CONF = "etc/nginx/nginx.conf.j2"
RELEASES = ["jammy", "noble", "resolute", "bullseye", "bookworm", "trixie"]


@pytest.fixture
def nginx_conf(render):
    return lambda release="bookworm", **overrides: render("nginx", CONF, release, **overrides)


@pytest.mark.parametrize("release", RELEASES)
def test_braces_are_balanced(nginx_conf, release):
    structure = re.sub(r"'[^']*'|#.*", "", nginx_conf(release))

    assert structure.count("{") == structure.count("}") > 0


@pytest.mark.parametrize(
    ("release", "directive"),
    [("jammy", False), ("noble", False), ("resolute", True), ("bookworm", False), ("trixie", True)],
)
def test_http2_is_written_as_the_release_reads_it(nginx_conf, release, directive):
    text = nginx_conf(release)

    assert ("http2 on;" in text) is directive
    assert ("listen 443 ssl http2;" in text) is not directive


@pytest.mark.parametrize(("release", "refused"), [("jammy", False), ("bullseye", False), ("noble", True)])
def test_a_handshake_is_refused_where_nginx_can(nginx_conf, release, refused):
    assert ("ssl_reject_handshake on;" in nginx_conf(release)) is refused


@pytest.mark.parametrize(("release", "offered"), [("noble", False), ("trixie", True), ("resolute", True)])
def test_the_post_quantum_group_is_offered_where_openssl_has_it(nginx_conf, release, offered):
    assert ("ssl_ecdh_curve X25519MLKEM768:X25519:" in nginx_conf(release)) is offered


def test_every_instance_of_every_inference_host_gets_requests(nginx_conf):
    hosts = {"gpu1": {"private_address": "192.0.2.11"}, "gpu2": {"private_address": "x", "bedplate_web_instances": 1}}
    hosts["gpu2"]["bedplate_web_address"] = "127.0.0.1"

    upstreams = re.findall(r"^ +server (\S+:\d+) .*;$", nginx_conf(hostvars=hosts), re.MULTILINE)

    assert upstreams == ["192.0.2.11:8001", "192.0.2.11:8002", "127.0.0.1:8001"]


def test_only_the_drained_instance_is_down(nginx_conf):
    text = nginx_conf(nginx_drained=["gpu2:1"])

    assert re.findall(r"^ +server (\S+) .* down;$", text, re.MULTILINE) == ["192.0.2.12:8001"]


@pytest.mark.parametrize(("seconds", "sent"), [(0, False), (63072000, True)])
def test_hsts_is_sent_only_when_asked_for(nginx_conf, seconds, sent):
    assert ("Strict-Transport-Security" in nginx_conf(nginx_hsts_s=seconds)) is sent


def test_nginx_waits_a_second_longer_than_the_web(nginx_conf):
    hosts = {name: {"private_address": "x", "bedplate_request_timeout_s": 7} for name in ("gpu1", "gpu2")}

    assert "proxy_read_timeout 8s;" in nginx_conf(hostvars=hosts)


def test_every_refusal_is_a_problem_with_its_status(nginx_conf):
    refusals = re.findall(r"return (\d+) '(.*)';", nginx_conf())

    problems = [(int(status), json.loads(body.replace("$sent_bytes", "1"))) for status, body in refusals]

    assert len(problems) >= 8
    for status, problem in problems:
        assert problem["status"] == status
        assert problem.keys() >= {"type", "title", "detail", "next_step", "request_id"}


def test_every_error_page_has_its_location_in_both_servers(nginx_conf):
    text = nginx_conf()

    pages = re.findall(r"error_page .* = (@\S+);", text)

    assert pages
    assert all(text.count(f"location {page} {{") == 2 for page in pages)
