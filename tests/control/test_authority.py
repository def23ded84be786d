"""The private authority: its key is closed, and its certificate good for this and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key


@pytest.fixture
def certificate(prepared):
    return x509.load_pem_x509_certificate((prepared.authority / "ca.crt").read_bytes())


def test_its_key_is_for_its_owner_and_closed_by_a_passphrase_of_the_vault(prepared):
    key = prepared.authority / "ca.key"

    assert (prepared.authority.stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o700, 0o600)
    with pytest.raises(TypeError, match="encrypted"):
        load_pem_private_key(key.read_bytes(), None)
    assert load_pem_private_key(key.read_bytes(), prepared.opened()["secret_authority_passphrase"].encode())


def test_it_gives_out_certificates_of_servers_and_makes_no_other_authority(certificate):
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)

    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)


def test_without_a_balancer_it_may_give_out_nothing(certificate):
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)

    assert constraints.critical
    assert constraints.value.permitted_subtrees is None
    assert x509.DNSName("") in constraints.value.excluded_subtrees


def test_it_lasts_as_long_as_declared(certificate):
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc

    assert abs(lasts - timedelta(days=3650)) < timedelta(days=1)


def test_the_next_run_leaves_it_as_it_is(prepared, changed):
    before = (prepared.authority / "ca.crt").read_bytes()

    again = prepared.prepare()

    assert again.returncode == 0, again.stdout
    assert changed(again) == 0
    assert (prepared.authority / "ca.crt").read_bytes() == before


def test_another_passphrase_makes_no_other_key(prepared):
    """Clients would trust the old one, and nobody could say why they refuse the new."""
    before = (prepared.authority / "ca.key").read_bytes()
    prepared.close(prepared.opened() | {"secret_authority_passphrase": "x" * 43})

    refused = prepared.prepare()

    assert refused.returncode != 0
    assert (prepared.authority / "ca.key").read_bytes() == before
