"""What the role nginx says of an operator's certificate before it touches a host."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

REPOSITORY = Path(__file__).resolve().parents[2]
PLAY = {
    "hosts": "localhost",
    "gather_facts": False,
    "tasks": [{"ansible.builtin.include_role": {"name": "nginx", "tasks_from": "own_certificate_preflight"}}],
}


def write_pair(folder, name="bedplate.test", days=30):
    """A certificate that began 60 days before it ends, or yesterday, whichever is earlier, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=min(-1, days - 60)))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    folder.mkdir()
    (folder / "own.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "own.key").write_bytes(key.private_bytes(*encodings))
    return folder


@pytest.fixture
def check(tmp_path):
    """Run the preflight with a certificate and a key, as a process of its own; returns it."""

    def run(certificate, key):
        playbook = tmp_path / "play.yml"
        playbook.write_text(yaml.safe_dump([PLAY]))
        variables = {"nginx_certificate_file": str(certificate), "nginx_certificate_key_file": str(key)}
        command = [Path(sys.executable).parent / "ansible-playbook", "-vvv", "-e", json.dumps(variables), playbook]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("name", ["bedplate.test", "*.test"])
def test_a_pair_for_the_name_or_its_wildcard_passes(check, tmp_path, name):
    pair = write_pair(tmp_path / "pair", name)

    done = check(pair / "own.crt", pair / "own.key")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("pair", "key", "reason"),
    [
        ({}, "other/own.key", "is not the one of the first certificate"),
        ({"days": -1}, "pair/own.key", "Get a new one"),
        ({"name": "api.example.org"}, "pair/own.key", "is for DNS:api.example.org, and clients ask for bedplate.test"),
        ({}, "pair/no.key", "no.key does not exist on the control machine"),
    ],
)
def test_a_pair_that_clients_would_refuse_is_refused_without_showing_the_key(check, tmp_path, pair, key, reason):
    write_pair(tmp_path / "pair", **pair)
    write_pair(tmp_path / "other")

    done = check(tmp_path / "pair/own.crt", tmp_path / key)

    assert done.returncode == 2
    assert reason in " ".join(done.stdout.split())
    for folder in ("pair", "other"):
        assert (tmp_path / folder / "own.key").read_text().splitlines()[1] not in done.stdout + done.stderr
