"""The balancer as its clients see it. What needs web instances behind it runs on a twin with stand-ins."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from pathlib import Path

import pytest

testinfra_hosts = ["ssh://lb1"]

API = "https://bedplate.test/v1/models"
TWIN = "https://bedplate.test:18443"
PREDICT = f"{TWIN}/v1/models/digits/predict"
FILES = Path(__file__).parent
READ_STATUS = (
    "/usr/bin/python3 -c 'from urllib.request import urlopen;"
    ' print(urlopen("http://127.0.0.1:8080/nginx_status").read().decode())\''
)
# The same configuration on other ports, with two stand-ins behind it: the first answers 503, the second echoes. It
# gives an allowance back so slowly that what a test counts does not depend on how fast the machine is.
MAKE_TWIN = r"""
sed -E -e 's/(listen (\[::\]:)?)80/\118080/' -e 's/(listen (\[::\]:)?)443/\118443/' \
  -e 's/(listen 127.0.0.1:)[0-9]+/\118090/' \
  -e '/^ +server [0-9]/d' \
  -e 's/least_conn;/& server 127.0.0.1:18001 max_fails=0; server 127.0.0.1:18002 max_fails=0;/' \
  -e 's,(limit_req_zone .*) rate=[0-9]+r/s,\1 rate=1r/m,' \
  -e 's/(limit_req .*) burst=[0-9]+/\1 burst=20/' -e 's/(limit_conn connections) .*;/\1 100;/' \
  -e 's,/run/nginx.pid,/run/bedplate-test/nginx.pid,' -e 's,/var/log/nginx/,/run/bedplate-test/,' \
  /etc/nginx/nginx.conf > /run/bedplate-test/nginx.conf
"""


@pytest.fixture(scope="module")
def twin(host):
    """Stops and starts its stand-ins; the real nginx and what is behind it are left alone."""
    # What a run that was cut off left behind.
    host.check_output("systemctl stop 'bedplate-test-*.service' && mkdir -p /run/bedplate-test")
    for name in ("standin.py", "stranger.py"):
        host.check_output(f"cat > /run/bedplate-test/{name} <<'END'\n{(FILES / name).read_text()}\nEND")
    host.check_output(MAKE_TWIN)
    for number, status in ((1, 503), (2, 200)):
        _start(host, f"standin-{number}", f"/usr/bin/python3 /run/bedplate-test/standin.py 1800{number} {status}")
    _start(host, "nginx", "/usr/sbin/nginx -c /run/bedplate-test/nginx.conf -g 'daemon off;'")
    _wait_for_the_twin(host)
    yield
    host.check_output("systemctl stop 'bedplate-test-*.service' && rm -r /run/bedplate-test")


@pytest.fixture
def stranger(twin, host):
    """A client on the host itself, whose address no list exempts. Comes with a full allowance."""
    host.check_output("systemctl restart bedplate-test-nginx")
    _wait_for_the_twin(host)
    return lambda *arguments: json.loads(
        host.check_output("/usr/bin/python3 /run/bedplate-test/stranger.py 18443 " + " ".join(map(str, arguments)))
    )


def _start(host, name, command):
    host.check_output(f"systemd-run --quiet --collect --unit=bedplate-test-{name} {command}")


def _wait_for_the_twin(host):
    _wait_for(lambda: host.socket("tcp://0.0.0.0:18443").is_listening)


def _wait_for(condition, timeout_s=15):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s"
        time.sleep(0.1)


def test_the_certificate_is_good_for_two_months_and_its_key_is_roots_alone(host):
    assert host.run("openssl x509 -in /etc/nginx/tls.crt -noout -checkend 5184000").rc == 0
    assert host.file("/etc/nginx/tls.key").mode == 0o600
    assert host.file("/etc/nginx/tls.key").user == "root"


@pytest.mark.parametrize(("version", "answers"), [("1.1", False), ("1.2", True), ("1.3", True)])
def test_tls_older_than_1_2_is_refused(address, version, answers):
    option = {"1.1": "-tls1_1", "1.2": "-tls1_2", "1.3": "-tls1_3"}[version]
    command = ["openssl", "s_client", "-connect", f"{address}:443", "-servername", "bedplate.test", option]
    # This machine's own openssl would refuse to speak 1.1.
    command += ["-cipher", "ALL:@SECLEVEL=0"]
    handshake = subprocess.run(command, capture_output=True, check=False, text=True, input="")

    assert (handshake.returncode == 0) is answers


def test_ciphers_that_mozilla_does_not_name_are_refused(address):
    command = ["openssl", "s_client", "-connect", f"{address}:443", "-servername", "bedplate.test", "-tls1_2"]
    others = "ALL:COMPLEMENTOFALL:-AESGCM:-CHACHA20:RSA+AESGCM:DHE+AESGCM:DHE+CHACHA20:@SECLEVEL=0"
    handshakes = [
        subprocess.run([*command, "-cipher", ciphers], capture_output=True, check=False, input=b"").returncode
        for ciphers in (others, "ECDHE+AESGCM")
    ]

    assert handshakes[0] != 0
    assert handshakes[1] == 0


def test_an_unknown_name_gets_no_handshake(address, curl):
    refused = curl("--insecure", "--resolve", f"other.test:443:{address}", "https://other.test/ping")

    assert refused.returncode != 0
    assert "HTTP/" not in refused.stdout


def test_an_unknown_name_gets_no_answer_on_port_80(address, curl):
    refused = curl(f"http://{address}/ping")

    assert refused.returncode != 0
    assert "HTTP/" not in refused.stdout


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_call_without_tls_is_refused_and_not_redirected(ask, method):
    answer = ask("http://bedplate.test/v1/models", "--request", method)

    assert answer.status == 403
    assert answer.json()["type"] == "urn:bedplate:problem:https-required"
    assert "location" not in answer.headers


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/health/detailed", "/health/../metrics"])
def test_what_operators_ask_is_unknown_outside(ask, path):
    answer = ask(f"https://bedplate.test{path}", "--path-as-is")

    assert answer.status == 404
    assert answer.json()["type"] == "urn:bedplate:problem:unknown-route"


@pytest.mark.parametrize("method", ["TRACE", "DELETE", "CONNECTED"])
def test_an_unknown_method_is_refused(ask, method):
    answer = ask(API, "--request", method)

    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD, POST, OPTIONS"
    assert answer.headers["content-type"] == "application/problem+json"


def test_whoever_asks_what_a_route_takes_is_passed_on_to_the_front_ends(ask):
    """They want a key; where balancers are tested alone they are not there. nginx itself would say 405."""
    assert ask(API, "--request", "OPTIONS").status in (401, 503)


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(ask):
    answer = ask(f"{API}/digits/predict", "--header", "Content-Length: 73400320", "--header", "Expect:", "--data", "x")

    assert answer.status == 413
    assert answer.json()["value"] == 73400320
    assert answer.json()["limit"] == 52428800
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/v1/models/digits", "/v1/models/a/b/predict"])
def test_other_routes_take_little(ask, path):
    answer = ask(
        f"https://bedplate.test{path}", "--header", "Content-Length: 65537", "--header", "Expect:", "--data", "x"
    )

    assert answer.status == 413
    assert answer.json()["limit"] == 65536


@pytest.mark.parametrize("port", [80, 443])
def test_a_request_without_a_name_gets_no_answer(address, port):
    with socket.create_connection((address, port), timeout=5) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""


def test_the_counters_of_nginx_are_for_the_host_alone(host, address, curl):
    assert "Active connections" in host.check_output(READ_STATUS)
    refused = curl("--max-time", "3", f"http://{address}:8080/nginx_status")
    assert refused.returncode != 0


def test_answers_name_no_version(ask):
    assert ask("https://bedplate.test/metrics").headers["server"] == "nginx"


def test_a_client_that_stalls_in_its_headers_is_cut_off(address):
    with socket.create_connection((address, 80), timeout=14) as stalled:
        stalled.sendall(b"GET /ping HTTP/1.1\r\nHost: bedplate.test\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert stalled.recv(1) == b""


def test_nginx_comes_back_after_a_crash(host, ask):
    before = host.check_output("systemctl show nginx --property=MainPID --value")
    host.check_output("systemctl kill --signal=KILL nginx")

    _wait_for(lambda: host.check_output("systemctl show nginx --property=MainPID --value") not in ("0", before))

    assert ask("https://bedplate.test/metrics").status == 404


def test_the_request_id_is_the_balancers_own(twin, ask):
    answer = ask(PREDICT, "--data", "x", "--header", "X-Request-ID: mine")

    seen = answer.json()["headers"]["x-request-id"]
    assert len(seen) == 32
    assert answer.headers["x-request-id"] == seen


def test_what_a_client_says_about_its_origin_is_overwritten(twin, ask):
    forged = [
        *("--header", "X-Forwarded-For: 192.0.2.9"),
        *("--header", "X-Forwarded-Proto: gopher"),
        *("--header", "X-Real-IP: 192.0.2.9"),
        *("--header", "Forwarded: for=192.0.2.9"),
    ]

    headers = ask(PREDICT, "--data", "x", *forged).json()["headers"]

    assert "192.0.2.9" not in str(headers)
    assert headers["x-forwarded-proto"] == "https"


def test_a_prediction_is_asked_of_a_second_instance_when_the_first_cannot(twin, ask):
    assert [ask(PREDICT, "--data", "x").status for _ in range(6)] == [200] * 6


def test_other_calls_are_sent_once(twin, ask):
    assert {ask(f"{TWIN}/v1/other", "--data", "x").status for _ in range(6)} == {200, 503}


def test_the_access_log_is_json_without_queries_keys_or_health(twin, host, ask):
    ask(f"{TWIN}/health/ready")
    answer = ask(f"{PREDICT}?secret=canary", "--data", "canary", "--header", "Authorization: Bearer canary")

    text = host.file("/run/bedplate-test/access.log").content_string
    newest = json.loads(text.splitlines()[-1])
    assert "canary" not in text
    assert "/health" not in text
    assert newest["request_id"] == answer.headers["x-request-id"]
    assert newest["path"] == "/v1/models/digits/predict"
    assert newest["status"] == 200
    assert newest["upstream_status"].endswith("200")


def test_a_strangers_burst_is_cut_off_with_429_and_an_exempt_clients_is_not(stranger, ask):
    answers = stranger("burst", 60)
    statuses = [ask(PREDICT, "--data", "x").status for _ in range(60)]

    assert [answer["status"] for answer in answers] == [200] * 21 + [429] * 39
    refused = answers[-1]
    assert refused["status"] == 429
    assert refused["retry_after"] == "2"
    assert refused["problem"]["type"] == "urn:bedplate:problem:too-many-requests"
    assert refused["problem"]["limit"] == 10
    assert statuses == [200] * 60


def test_addresses_of_one_ipv6_network_share_their_allowance(stranger, host):
    sources = ["fd00:bed::1", "fd00:bed::2", "fd00:bed:0:1::1"]
    for source in sources:
        host.check_output(f"ip addr replace {source}/128 dev lo")

    answers = stranger("burst", 90, *sources)

    refused = [[answer["status"] for answer in answers[n::3]].count(429) for n in range(3)]
    assert refused[0] + refused[1] == 60 - 21
    assert refused[2] == 30 - 21
    assert min(refused[:2]) > 0


def test_health_is_not_limited_by_rate(stranger):
    answers = stranger("hold", 60)

    assert answers == [None] * 60


def test_more_open_requests_of_a_stranger_than_allowed_get_429(stranger):
    answers = stranger("hold", 105)

    refused = [answer for answer in answers if answer]
    assert [answer["status"] for answer in refused] == [429] * 5
    assert refused[0]["retry_after"] == "2"
    assert refused[0]["problem"]["limit"] == 100
    assert "at a time" in refused[0]["problem"]["detail"]


def test_no_instance_left_is_answered_503_with_retry_after(twin, host, ask):
    host.check_output("systemctl stop bedplate-test-standin-1 bedplate-test-standin-2")

    answer = ask(PREDICT, "--data", "x")

    assert answer.status == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["type"] == "urn:bedplate:problem:service-unavailable"
