"""nginx.conf, as each release gets it."""

from __future__ import annotations

import json
import re

import pytest
from bedplate.errors import EnginesLost, EngineUnavailable
from bedplate.web.problems import STATUS

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


def upstreams(text):
    """By name of the upstream, its lines `server`."""
    found = re.findall(r"^ +upstream (\S+) \{\n(.*?)^ +\}", text, re.MULTILINE | re.DOTALL)
    return {name: re.findall(r"^ +server (.*);$", body, re.MULTILINE) for name, body in found}


def test_old_versions_of_tls_are_not_offered(nginx_conf):
    """Where OpenSSL's own level refuses them as well, no handshake tells."""
    assert re.findall(r"ssl_protocols (.*);", nginx_conf()) == ["TLSv1.2 TLSv1.3"]


def test_every_instance_of_every_inference_host_gets_requests(nginx_conf):
    hosts = {"gpu1": {"private_address": "192.0.2.11"}, "gpu2": {"private_address": "x", "bedplate_web_instances": 1}}
    hosts["gpu2"]["bedplate_web_address"] = "127.0.0.1"

    servers = [line.split()[0] for line in upstreams(nginx_conf(hostvars=hosts))["bedplate"]]

    assert servers == ["192.0.2.11:8001", "192.0.2.11:8002", "127.0.0.1:8001"]


def test_a_host_gets_the_share_that_its_weight_says(nginx_conf):
    hosts = {"gpu1": {"private_address": "a"}, "gpu2": {"private_address": "b", "nginx_weight": 3}}

    lines = upstreams(nginx_conf(hostvars=hosts))["bedplate"]

    assert [line.split()[:2] for line in lines] == [
        ["a:8001", "weight=1"],
        ["a:8002", "weight=1"],
        ["b:8001", "weight=3"],
        ["b:8002", "weight=3"],
    ]


def test_each_host_has_an_upstream_without_it_and_a_flag_that_chooses_it(nginx_conf):
    text = nginx_conf()

    pools = upstreams(text)
    assert pools.keys() == {"bedplate", "bedplate-without-gpu1", "bedplate-without-gpu2"}
    assert [line.split()[0] for line in pools["bedplate-without-gpu1"]] == ["192.0.2.12:8001", "192.0.2.12:8002"]
    choice = r"if \(-f /var/lib/bedplate-balancer/drained/(\S+)\) \{\s+set \$pool bedplate-without-(\S+);"
    assert re.findall(choice, text) == [("gpu1", "gpu1"), ("gpu2", "gpu2")]


def test_the_only_host_cannot_be_drained(nginx_conf):
    text = nginx_conf(groups={"inference": ["gpu1"]})

    assert upstreams(text).keys() == {"bedplate"}
    assert "-f /var" not in text


def test_requests_go_to_the_pool_that_was_chosen(nginx_conf):
    assert set(re.findall(r"proxy_pass (.*);", nginx_conf())) == {"http://$pool"}


def test_only_predictions_take_large_bodies(nginx_conf):
    assert re.findall(r"client_max_body_size (\d+);", nginx_conf()) == [
        "65536",
        "52428800",
        "52428800",
    ]  # of which /key gets none


@pytest.mark.parametrize(
    ("path", "is_prediction"),
    [
        ("/v1/models/digits/predict", True),
        ("/v1/models/digits/versions/2.1/predict", True),
        ("/v1/models/digits/versions/fast/predict", True),
        ("/v1/models/digits/other/fast/predict", False),
        ("/v1/models/digits/versions/predict", False),
        ("/v1/models/digits/versions/a/b/predict", False),
        ("/v1/models", False),
        ("/v2/models/digits/infer", True),
        ("/v2/models/digits/versions/2.1/infer", True),
        ("/v2/models/digits/versions/fast/infer", True),
        ("/v2/models/digits", False),
        ("/v2/models/digits/versions/infer", False),
        ("/v2/models/digits/ready", False),
        ("/v2/models/digits/predict", False),
        ("/v1/models/digits/infer", False),
        ("/v2/repository/index", False),
        ("/v2", False),
    ],
)
def test_a_prediction_is_known_by_its_path(nginx_conf, path, is_prediction):
    text = nginx_conf()

    (location,) = re.findall(r"location ~ (\^/\(v1/models/\S+) {", text)
    (limit,) = re.findall(r"~(\^/\(v1/models/\S+) 52428800;", text)

    assert [bool(re.search(pattern, path)) for pattern in (location, limit)] == [is_prediction] * 2


@pytest.mark.parametrize(("instances", "tries"), [((1, 1), 2), ((2, 2), 3), ((1, 4), 5)])
def test_a_request_outlives_all_front_ends_of_one_host(nginx_conf, instances, tries):
    hosts = {f"gpu{n}": {"private_address": "x", "bedplate_web_instances": count} for n, count in enumerate(instances)}

    text = nginx_conf(hostvars=hosts, groups={"inference": list(hosts)})

    assert re.findall(r"proxy_next_upstream_tries (.*);", text) == [str(tries)]


def test_what_ended_two_engines_is_tried_on_no_other_host(nginx_conf):
    tried = re.findall(r"proxy_next_upstream (.*);", nginx_conf())

    assert tried == ["error timeout http_502 http_503 non_idempotent"]
    assert f"http_{STATUS[EnginesLost]}" not in tried[0].split()
    assert f"http_{STATUS[EngineUnavailable]}" in tried[0].split()


def test_limits_are_written_as_declared(nginx_conf):
    limits = {"nginx_rate_limit_per_s": 7, "nginx_rate_burst": 3, "nginx_connections_per_address": 5}

    text = nginx_conf(**limits, nginx_limit_exempt=["192.0.2.0/24", "2001:db8::1"])

    assert "zone=requests:10m rate=7r/s;" in text
    assert text.count("limit_req zone=requests burst=3 nodelay;") == 2
    assert text.count("limit_conn connections 5;") == 1
    [exempt] = re.findall(r"geo \$limit_exempt \{(.*?)\}", text, re.DOTALL)
    assert re.findall(r"^ +(\S+) 1;$", exempt, re.MULTILINE) == ["192.0.2.0/24", "2001:db8::1"]


@pytest.mark.parametrize(
    ("expect", "coding", "length", "is_asked"),
    [
        ("", "", "", "0"),
        ("", "", "99999", "0"),
        ("", "", "100000", "1"),
        ("", "chunked", "", "1"),
        ("100-continue", "", "5", "1"),
    ],
)
def test_the_key_is_asked_for_before_a_long_body_is_read(nginx_conf, expect, coding, length, is_asked):
    text = nginx_conf()

    (pattern, found, otherwise) = re.search(
        r'\$is_key_asked_first \{\n +"~(\S+)" (\d);\n +default (\d);', text
    ).groups()

    assert (found if re.search(pattern, f"{expect}|{coding}|{length}") else otherwise) == is_asked


def test_a_prediction_waits_for_the_verdict_on_its_key_which_is_given_without_its_body(nginx_conf):
    text = nginx_conf()

    (prediction,) = re.findall(r"location ~ \^/\(v1/models/\S+ {(.*?)\n        }", text, re.DOTALL)
    (verdict,) = re.findall(r"location = /key {(.*?)\n        }", text, re.DOTALL)

    assert "auth_request /key;" in prediction
    assert {"internal;", "proxy_pass_request_body off;", 'proxy_set_header Content-Length "";'} <= set(
        line.strip() for line in verdict.splitlines()
    )
    assert "rewrite ^ /v2/health/live break;" in verdict
    assert text.count("error_page 401 = @refused-credential;") == 2


@pytest.mark.parametrize("path", ["= /ping", "~ ^/health(/live|/ready)?$"])
def test_health_is_neither_limited_nor_logged(nginx_conf, path):
    (location,) = re.findall(rf"location {re.escape(path)} {{(.*?)}}", nginx_conf(), re.DOTALL)

    assert "access_log off;" in location
    assert "limit_req" not in location


@pytest.mark.parametrize(("certificate", "sent"), [("", False), ("/own.pem", True)])
def test_browsers_are_held_to_tls_only_with_a_certificate_of_ones_own(nginx_conf, certificate, sent):
    text = nginx_conf(nginx_certificate_file=certificate)

    assert ('Strict-Transport-Security "max-age=63072000"' in text) is sent


@pytest.mark.parametrize(("seconds", "sent"), [(0, False), (63072000, True)])
def test_hsts_is_sent_only_when_asked_for(nginx_conf, seconds, sent):
    assert ("Strict-Transport-Security" in nginx_conf(nginx_hsts_s=seconds)) is sent


def test_nginx_waits_a_second_longer_than_the_web(nginx_conf):
    hosts = {name: {"private_address": "x", "bedplate_request_timeout_s": 7} for name in ("gpu1", "gpu2")}

    assert "proxy_read_timeout 8s;" in nginx_conf(hostvars=hosts)


def test_every_refusal_is_a_problem_with_its_status(nginx_conf):
    refusals = re.findall(r"return (\d+) '(.*)';", nginx_conf())

    problems = [(int(status), json.loads(re.sub(r"\$[a-z_]+", "1", body))) for status, body in refusals]

    assert len(problems) >= 8
    for status, problem in problems:
        assert problem["status"] == status
        assert problem.keys() >= {"type", "title", "detail", "next_step", "request_id"}


def test_every_error_page_has_its_location_in_its_server(nginx_conf):
    text = nginx_conf()

    named = re.findall(r"error_page .* = (@\S+);", text)
    paths = re.findall(r"error_page .* = (/\S+);", text)

    assert len(set(named)) > 7
    assert all(text.count(f"location {page} {{") == named.count(page) for page in named)
    assert paths
    assert all(len(re.findall(rf"location = {page} {{\n +internal;", text)) == paths.count(page) for page in paths)


def test_what_cannot_be_read_goes_to_a_path_because_a_named_location_wants_a_uri(nginx_conf):
    pages = re.findall(r"error_page (.*) = (\S+);", nginx_conf())

    assert {page[0] for statuses, page in pages if {"400", "505"} & set(statuses.split())} == {"/"}
