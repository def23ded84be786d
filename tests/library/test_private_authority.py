"""What the authority signs: what the control machine wrote, for a key that its host has, for its own names alone."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address, ip_network

import private_authority
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Use
from cryptography.x509.oid import NameOID
from private_authority import Authority, Permitted, Refused, server_certificate

NAME, ADDRESS = "predict.example.org", "198.51.100.7"
HOSTILE = [
    x509.SubjectAlternativeName([x509.DNSName("github.com"), x509.DNSName(NAME)]),
    x509.BasicConstraints(ca=True, path_length=5),
    x509.KeyUsage(True, True, True, True, True, True, True, False, False),
    x509.ExtendedKeyUsage([Use.CODE_SIGNING, Use.CLIENT_AUTH, Use.ANY_EXTENDED_KEY_USAGE]),
    x509.NameConstraints([x509.DNSName("com")], None),
    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"),
]


@pytest.fixture
def key():
    return new_key()


@pytest.fixture
def folder(tmp_path, key):
    closed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"right"))
    (tmp_path / "ca.key").write_bytes(closed)
    return tmp_path


@pytest.fixture
def authority(folder):
    """authority(*names) → one whose certificate permits them."""

    def authority(*names):
        made = Authority(str(folder), "right")
        private_authority._write(made.path, private_authority._pem(made.make(names, 3650)))
        return Authority(str(folder), "right")

    return authority


@pytest.fixture
def signed(authority, folder):
    """signed(request) → the certificate, beside its authority's, and whether it is a new one."""
    given = authority(NAME, ADDRESS)

    def signed(request, names=(NAME, ADDRESS), renew_days=0):
        path = str(folder / "lb1.crt")
        text, changed = server_certificate(given, path, pem(request), list(names), 397, renew_days)
        private_authority._write(path, text)
        return x509.load_pem_x509_certificate(text.encode()), changed

    return signed


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def request(key, extensions=()):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "github.com")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256())


def resigned(like, public_key, signer, extensions):
    """A certificate as another hand with the authority's key would make it."""
    builder = x509.CertificateBuilder(like.issuer, like.subject, public_key, 7)
    builder = builder.not_valid_before(like.not_valid_before_utc).not_valid_after(like.not_valid_after_utc)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(signer, hashes.SHA256())


def pem(made):
    return made.public_bytes(Encoding.PEM).decode()


def without_its_key():
    """Another's public key, and a signature that is not its owner's."""
    der = bytearray(request(new_key()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der))


def openssl(folder, certificate, *options):
    command = ["openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.crt", *options, folder / certificate]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_of_a_request_only_the_key_reaches_the_certificate(signed):
    host = new_key()

    certificate, _ = signed(request(host, HOSTILE))

    said = {type(extension.value): extension.value for extension in certificate.extensions}
    assert certificate.public_key() == host.public_key()
    assert certificate.subject.rfc4514_string() == f"CN={NAME}"
    assert list(said[x509.SubjectAlternativeName]) == [x509.DNSName(NAME), x509.IPAddress(ip_address(ADDRESS))]
    assert said[x509.BasicConstraints] == x509.BasicConstraints(ca=False, path_length=None)
    assert said[x509.ExtendedKeyUsage] == x509.ExtendedKeyUsage([Use.SERVER_AUTH])
    assert said[x509.KeyUsage] == x509.KeyUsage(True, *[False] * 8)
    assert len(said) == 6
    assert certificate.not_valid_after_utc - datetime.now(timezone.utc) <= timedelta(days=397)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (["-purpose", "sslserver", "-verify_hostname", NAME], True),
        (["-purpose", "sslserver", "-verify_ip", ADDRESS], True),
        (["-verify_hostname", "github.com"], False),
        (["-purpose", "sslclient"], False),
        (["-purpose", "smimesign"], False),
        (["-purpose", "timestampsign"], False),
    ],
)
def test_clients_take_it_for_the_servers_name_and_for_nothing_else(signed, folder, options, taken):
    signed(request(new_key(), HOSTILE))

    said = openssl(folder, "lb1.crt", *options)

    assert (said.returncode == 0) is taken, said.stderr


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (without_its_key, "is not signed by its key"),
        (lambda: request(rsa.generate_private_key(65537, 1024)), "of 1024 bits; wanted is one on an elliptic curve"),
        (lambda: request(ec.generate_private_key(ec.SECP192R1())), "of 192 bits; wanted is one on an elliptic curve"),
    ],
)
def test_a_host_that_cannot_prove_a_strong_key_gets_no_certificate(signed, made, words):
    with pytest.raises(Refused, match=words):
        signed(made())


@pytest.mark.parametrize(
    "text", ["", "noise", "-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----"]
)
def test_noise_instead_of_a_request_is_refused(authority, folder, text):
    with pytest.raises(Refused, match="request cannot be read"):
        server_certificate(authority(NAME), str(folder / "x"), text, [NAME], 397, 60)


@pytest.mark.parametrize(
    "name",
    [
        x509.DNSName("github.com"),
        x509.DNSName("example.org"),
        x509.IPAddress(ip_address("198.51.100.8")),
        x509.IPAddress(ip_address("2001:db8::1")),
    ],
)
def test_even_who_steals_the_authoritys_key_finds_no_client_for_another_name(signed, folder, key, name):
    ours, _ = signed(request(new_key()))
    extensions = [(x509.SubjectAlternativeName([name]), False)]
    extensions += [(each.value, each.critical) for each in list(ours.extensions)[1:]]

    stolen = resigned(ours, ours.public_key(), key, extensions)
    (folder / "stolen.crt").write_text(pem(stolen))

    refused = openssl(folder, "stolen.crt")
    assert openssl(folder, "lb1.crt").returncode == 0
    assert refused.returncode != 0
    assert "subtree" in refused.stderr


def test_its_certificate_limits_every_kind_of_name_and_clients_must_heed_it(authority):
    certificate = authority(NAME, ADDRESS, "10.0.0.0/8").certificate

    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [
        x509.DNSName(NAME),
        x509.IPAddress(ip_network("10.0.0.0/8")),
        x509.IPAddress(ip_network(f"{ADDRESS}/32")),
    ]
    assert constraints.value.excluded_subtrees == [x509.IPAddress(ip_network("::/0"))]


@pytest.mark.parametrize(
    ("permitted", "name", "covered"),
    [
        (["example.org"], "predict.example.org", True),
        (["example.org"], "Example.ORG.", True),
        (["example.org"], "notexample.org", False),
        (["*.example.org"], "a.example.org", True),
        (["predict.example.org"], "*.example.org", False),
        (["198.51.100.0/24"], "198.51.100.7", True),
        (["198.51.100.0/24"], "198.51.101.7", False),
        (["198.51.100.0/24"], "2001:db8::1", False),
        (["2001:db8::/32"], "2001:db8::1", True),
        ([], "example.org", False),
    ],
)
def test_a_name_is_covered_by_itself_and_by_what_is_above_it(permitted, name, covered):
    assert Permitted.of(permitted).covers(name) is covered


def test_another_name_is_refused_with_the_way_and_the_same_key_permits_it_anew(authority, folder):
    before = authority(NAME, ADDRESS).certificate

    with pytest.raises(Refused, match=f"permits certificates for {NAME}, {ADDRESS}/32, and not for api.example.net"):
        Authority(str(folder), "right").require([NAME, "api.example.net"])

    (folder / "ca.crt").unlink()
    after = authority(NAME, ADDRESS, "api.example.net")
    after.require([NAME, "api.example.net"])
    assert (before.subject, before.public_key()) == (after.certificate.subject, after.certificate.public_key())


def test_a_server_whose_name_it_does_not_permit_gets_no_certificate(signed):
    with pytest.raises(Refused, match=r"clients would refuse them.*prepare\.yml"):
        signed(request(new_key()), ["api.example.net"])


def test_clients_that_trust_an_authority_without_limits_take_what_is_signed_beside_the_new_one(
    authority, signed, folder, key
):
    """Who upgrades makes ca.crt anew; clients may take it at leisure."""
    made = authority(NAME, ADDRESS).certificate
    signed(request(new_key()))
    kept = (x509.BasicConstraints, x509.KeyUsage, x509.SubjectKeyIdentifier)

    earlier = [(each.value, each.critical) for each in made.extensions if isinstance(each.value, kept)]
    (folder / "ca.crt").write_text(pem(resigned(made, key.public_key(), key, earlier)))

    assert Authority(str(folder), "right").require(["anything.example.com"]) is None
    assert openssl(folder, "lb1.crt", "-verify_hostname", NAME).returncode == 0


def test_a_certificate_stays_until_its_key_its_name_or_its_rest_of_days_is_another(signed):
    host, other = new_key(), new_key()
    first, _ = signed(request(host))

    assert signed(request(host)) == (first, False)
    assert signed(request(host), renew_days=398)[1]
    assert signed(request(other))[1]
    assert signed(request(other), [NAME])[1]


def test_what_an_earlier_version_signed_unchecked_is_made_anew(signed, folder, key):
    host = new_key()
    good, _ = signed(request(host))
    extensions = [(each, False) for each in HOSTILE]
    (folder / "lb1.crt").write_text(pem(resigned(good, host.public_key(), key, extensions)))

    certificate, changed = signed(request(host))

    assert changed
    assert list(certificate.extensions) == list(good.extensions)
