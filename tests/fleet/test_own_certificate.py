"""A certificate of the operator's own instead of the private authority's."""

import json
import re
import subprocess

import pytest

from tools.deployment import SERVER_NAME

MAKE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=own"
    f" -addext subjectAltName=DNS:{SERVER_NAME} -keyout own.key -out own.crt"
)


@pytest.fixture
def own(tmp_path):
    """Folder with own.crt and own.key."""
    subprocess.run(MAKE.split(), cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.fixture
def as_before(fleet):
    """However a test ends, the private authority's certificate is back."""
    yield
    back = fleet.playbook("balancer.yml")
    assert back.returncode == 0, back.stdout


def test_it_is_served_browsers_are_held_to_it_and_its_key_is_shown_nowhere(fleet, own, as_before):
    files = {"nginx_certificate_file": f"{own}/own.crt", "nginx_certificate_key_file": f"{own}/own.key"}

    placed = fleet.playbook("balancer.yml", "-vvv", "--diff", "-e", json.dumps(files))

    asked = ["curl", "--silent", "--include", "--cacert", f"{own}/own.crt", f"https://{SERVER_NAME}/metrics"]
    asked += ["--resolve", f"{SERVER_NAME}:443:{fleet.address}"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    assert placed.returncode == 0, placed.stdout
    assert "strict-transport-security: max-age=63072000" in answer.lower()
    assert (own / "own.key").read_text().splitlines()[1] not in placed.stdout + placed.stderr
    assert fleet.ssh("lb1", "stat -c '%a %U' /etc/nginx/tls.key").split() == ["600", "root"]


def test_the_authoritys_certificate_is_renewed_in_time_and_the_new_one_is_served(fleet):
    def served():
        command = ["openssl", "s_client", "-connect", f"{fleet.address}:443", "-servername", SERVER_NAME]
        said = subprocess.run(command, capture_output=True, text=True, check=True, input="").stdout
        return re.search("-----BEGIN.*?-----END", said, re.DOTALL)[0]

    before = served()
    # Longer than any certificate of the authority is good for.
    run = fleet.playbook("balancer.yml", "--limit=lb1", "-e", "nginx_certificate_renew_days=398")

    assert run.returncode == 0, run.stdout
    assert served() != before


def test_a_pair_that_does_not_match_is_refused_and_the_old_one_serves(fleet, own, ask, as_before):
    before = fleet.ssh("lb1", "sha256sum /etc/nginx/tls.crt /etc/nginx/tls.key")
    (own / "other").mkdir()
    subprocess.run(MAKE.split(), cwd=own / "other", check=True, capture_output=True)
    files = {"nginx_certificate_file": f"{own}/own.crt", "nginx_certificate_key_file": f"{own}/other/own.key"}

    refused = fleet.playbook("balancer.yml", "-e", json.dumps(files))

    assert refused.returncode != 0
    assert "is not the one of the first certificate" in refused.stdout
    assert fleet.ssh("lb1", "sha256sum /etc/nginx/tls.crt /etc/nginx/tls.key") == before
    assert ask("GET", "/metrics").status == 404
