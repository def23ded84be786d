"""The passphrase in the vault, the key that it opens, and the certificate of that key are looked at before a run."""

import subprocess

import pytest

from tools.preflight import control

PASSPHRASE = "x" * 43


@pytest.fixture
def authority(tmp_path):
    """An inventory whose authority was made with PASSPHRASE."""
    folder = tmp_path / "authority"
    folder.mkdir()
    make(folder)
    return tmp_path


def make(folder):
    options = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 90 -subj /CN=authority"
    files = ["-keyout", folder / "ca.key", "-out", folder / "ca.crt"]
    closed = ["-passout", f"pass:{PASSPHRASE}"]
    subprocess.run(["openssl", "req", "-x509", *options.split(), *closed, *files], check=True, capture_output=True)


def judged(inventory, passphrase):
    return list(control._authority_opens(inventory, passphrase))


def test_the_passphrase_of_the_key_is_taken(authority):
    assert judged(authority, PASSPHRASE) == []


@pytest.mark.parametrize("passphrase", ["y" * 43, "", PASSPHRASE + "\n"])
def test_another_passphrase_is_refused_with_the_line_to_edit_and_not_shown(authority, passphrase):
    [finding] = judged(authority, passphrase)

    assert f"does not open {authority}/authority/ca.key" in finding.found
    assert "secret_authority_passphrase" in finding.next_step
    assert "yyy" not in str(finding)


def test_a_certificate_of_another_key_is_refused(authority):
    certificate = (authority / "authority/ca.crt").read_bytes()
    make(authority / "authority")
    (authority / "authority/ca.crt").write_bytes(certificate)

    [finding] = judged(authority, PASSPHRASE)

    assert "is of another key" in finding.found


def test_an_authority_that_is_yet_to_be_made_is_no_finding(tmp_path):
    assert judged(tmp_path, PASSPHRASE) == []
