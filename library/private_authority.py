#!/usr/bin/python
"""Ansible module: the private authority on the control machine, and the certificates that it gives to servers."""

from __future__ import annotations

DOCUMENTATION = """
module: private_authority
short_description: Makes the private authority's certificate, or one of a server
description:
  - Without C(request) it makes ca.crt for the ca.key beside it, once, and from then on holds it against C(names).
  - With C(request) it signs for a server. Of the request it takes the public key, once its owner has proven to have the
    private one, and nothing else; what the certificate says is written here.
  - It runs on the control machine, which alone has the authority's key.
options:
  folder: {description: Where ca.key and ca.crt lie., type: path, required: true}
  passphrase: {description: Opens ca.key., type: str, required: true}
  names:
    description: DNS names and addresses; of the authority also networks (198.51.100.0/24), and all below a DNS name.
    type: list
    elements: str
    required: true
  days: {description: How long a new certificate is good for., type: int, required: true}
  request: {description: What the server's host made, in PEM., type: str}
  path: {description: Where the server's certificate lies., type: path}
  renew_days: {description: Days left at which the server's certificate is made anew., type: int, default: 0}
"""

import datetime
import ipaddress
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SUBJECT = "Bedplate private authority"
LEAST_KEY_BITS = 256
# X.509 takes no longer one, and clients read the other names.
LONGEST_COMMON_NAME = 64
# An authority that permits no name of a kind forbids all of them.
EVERY_NAME = {4: "0.0.0.0/0", 6: "::/0"}


class Refused(Exception):
    """What is wrong, in words for the operator."""


def parse(name):
    """An address or network, or else a DNS name."""
    try:
        return ipaddress.ip_network(name)
    except ValueError:
        return name.lower().removesuffix(".")


class Permitted:
    """The names that an authority may give certificates for."""

    def __init__(self, dns, networks):
        self.dns, self.networks = sorted(set(dns)), sorted(set(networks), key=lambda each: (each.version, each))

    @classmethod
    def of(cls, names):
        parsed = [parse(name) for name in names]
        # A constraint covers what is below it anyway.
        dns = [name.removeprefix("*.") for name in parsed if isinstance(name, str)]
        return cls(dns, [name for name in parsed if not isinstance(name, str)])

    @classmethod
    def read(cls, certificate):
        """None for a certificate without constraints, as earlier versions made them."""
        try:
            subtrees = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
        except x509.ExtensionNotFound:
            return None
        names = [(type(subtree), subtree.value) for subtree in subtrees or []]
        return cls(
            [value for kind, value in names if kind is x509.DNSName],
            [value for kind, value in names if kind is x509.IPAddress],
        )

    def covers(self, name):
        name = parse(name)
        if isinstance(name, str):
            name = name.removeprefix("*.")
            return any(name == each or name.endswith("." + each) for each in self.dns)
        return any(each.version == name.version and name.subnet_of(each) for each in self.networks)

    def constraints(self):
        permitted = [x509.DNSName(name) for name in self.dns] + [x509.IPAddress(each) for each in self.networks]
        excluded = [] if self.dns else [x509.DNSName("")]
        for version, every in EVERY_NAME.items():
            if not any(each.version == version for each in self.networks):
                excluded.append(x509.IPAddress(ipaddress.ip_network(every)))
        return x509.NameConstraints(permitted or None, excluded or None)

    def __str__(self):
        return ", ".join([*self.dns, *map(str, self.networks)]) or "nothing"


class Authority:
    """The key and certificate that lie in a folder; no certificate before it was made."""

    def __init__(self, folder, passphrase):
        self.path = os.path.join(folder, "ca.crt")
        self._key = _read(os.path.join(folder, "ca.key"), lambda text: load_pem_private_key(text, passphrase.encode()))
        exists = os.path.exists(self.path)
        self.certificate = _read(self.path, x509.load_pem_x509_certificate) if exists else None

    def make(self, names, days):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SUBJECT)])
        public_key = self._key.public_key()
        now = datetime.datetime.now(datetime.timezone.utc)
        extensions = [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage(key_cert_sign=True, crl_sign=True), True),
            (Permitted.of(names).constraints(), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        ]
        return self._sign(subject, subject, public_key, (now, now + _days(days)), extensions)

    def require(self, names):
        """Refuse names that clients would not take from this authority. Returns what it permits."""
        permitted = Permitted.read(self.certificate)
        missing = [name for name in names if permitted and not permitted.covers(name)]
        if missing:
            raise Refused(
                f"{self.path} permits certificates for {permitted}, and not for {', '.join(missing)}: clients would "
                "refuse them. Either correct nginx_server_name or nginx_public_address, or make it anew with the same "
                f"key: remove {self.path}, run playbooks/prepare.yml and give the new one to every client before you "
                "run anything else (docs/operations.md, Certificates)"
            )
        return permitted

    def extensions_for(self, public_key, names):
        """All that a server's certificate says beside its key and times."""
        alternatives = [
            x509.DNSName(name) if isinstance(parse(name), str) else x509.IPAddress(ipaddress.ip_address(name))
            for name in names
        ]
        return [
            (x509.SubjectAlternativeName(alternatives), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ]

    def sign(self, public_key, names, days):
        now = datetime.datetime.now(datetime.timezone.utc)
        # From yesterday on, for hosts whose clock runs behind.
        times = (now - _days(1), min(now + _days(days), self.certificate.not_valid_after_utc))
        extensions = self.extensions_for(public_key, names)
        return self._sign(subject_of(names), self.certificate.subject, public_key, times, extensions)

    def gave(self, certificate):
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def _sign(self, subject, issuer, public_key, times, extensions):
        builder = x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number())
        builder = builder.not_valid_before(times[0]).not_valid_after(times[1])
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def subject_of(names):
    name = names[0]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if len(name) <= LONGEST_COMMON_NAME else [])


def usage(**allowed):
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    every += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**dict.fromkeys(every, False) | allowed)


def public_key_in(request):
    """The only thing that is taken from a request."""
    try:
        parsed = x509.load_pem_x509_csr(request.encode())
        key, proven = parsed.public_key(), parsed.is_signature_valid
    except Exception as error:  # a host may send anything, and cryptography's errors have no class in common
        raise Refused(f"the host's request cannot be read ({error}); remove its /etc/nginx/tls.key") from None
    if not proven:
        raise Refused("the host's request is not signed by its key; remove its /etc/nginx/tls.key and ask who wrote it")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.key_size < LEAST_KEY_BITS:
        found = f"{type(key).__name__} of {getattr(key, 'key_size', '?')} bits"
        raise Refused(
            f"the host's key is {found}; wanted is one on an elliptic curve of {LEAST_KEY_BITS} bits or more. "
            "Remove its /etc/nginx/tls.key"
        )
    return key


def is_current(authority, certificate, public_key, names, renew_days):
    """Whether a server's certificate is what would be made now, and lasts."""
    said = [(extension.value, extension.critical) for extension in certificate.extensions]
    wanted = authority.extensions_for(public_key, names)
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    return (
        authority.gave(certificate)
        and _bytes(certificate.public_key()) == _bytes(public_key)
        and certificate.subject == subject_of(names)
        and len(said) == len(wanted)
        and all(each in said for each in wanted)
        and left >= _days(renew_days)
    )


def server_certificate(authority, path, request, names, days, renew_days):
    """Returns the certificate of a server in PEM, and whether it is another than before."""
    if authority.certificate is None:
        raise Refused(f"{authority.path} does not exist. Run playbooks/prepare.yml")
    authority.require(names)
    public_key = public_key_in(request)
    try:
        before = _read(path, x509.load_pem_x509_certificate)
        if is_current(authority, before, public_key, names, renew_days):
            return _pem(before), False
    except (Refused, ValueError):
        pass  # none there, or a damaged one
    return _pem(authority.sign(public_key, names, days)), True


def _read(path, load):
    try:
        with open(path, "rb") as file:
            return load(file.read())
    except (OSError, ValueError, TypeError) as error:
        raise Refused(f"{path} does not open: {error}") from None


def _days(number):
    return datetime.timedelta(days=number)


def _bytes(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate):
    return certificate.public_bytes(Encoding.PEM).decode()


def _write(path, text):
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".private-authority-")
    try:
        with os.fdopen(handle, "w") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def run(module):
    given = module.params
    authority = Authority(given["folder"], given["passphrase"])
    if given["request"] is not None:
        wanted = [given[name] for name in ("path", "request", "names", "days", "renew_days")]
        text, changed = server_certificate(authority, *wanted)
        if changed and not module.check_mode:
            _write(given["path"], text)
        return {"changed": changed, "certificate": text}
    changed = authority.certificate is None
    if changed:
        authority.certificate = authority.make(given["names"], given["days"])
        if not module.check_mode:
            _write(authority.path, _pem(authority.certificate))
    permitted = authority.require(given["names"])
    return {"changed": changed, "constrained": permitted is not None}


def main():
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "passphrase": {"type": "str", "required": True, "no_log": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "days": {"type": "int", "required": True},
            "request": {"type": "str"},
            "path": {"type": "path"},
            "renew_days": {"type": "int", "default": 0},
        },
        required_by={"request": ["path"]},
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (Refused, ValueError) as refusal:
        module.fail_json(msg=f"{refusal}. Nothing was written.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
