"""Files of the control machine: secrets, certificates and bundles. What a run makes by itself may be missing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from shlex import quote
from typing import Any

import yaml
from bedplate.bundle.manifest import verify_manifest
from bedplate.bundle.strict_yaml import BundleError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tools.deployment import ROOT
from tools.preflight.hosts import CONTROL, Finding, Host

VAULTED = "$ANSIBLE_VAULT"
SECRET = re.compile(r"[A-Za-z0-9_-]{43,}")
PLACEHOLDER = re.compile(r"change.?me", re.IGNORECASE)


def judge(hosts: list[Host], inventory: Path, password_file: str | None, days: int) -> Iterator[Finding]:
    yield from _secrets(inventory, password_file)
    yield from _authority(inventory, days)
    # Most hosts name the same files.
    for host in _first(hosts, "lb", "nginx_certificate_file", "nginx_certificate_key_file", "nginx_server_name"):
        yield from _own_certificate(host, days)
    for host in _first(hosts, "inference", "bedplate_bundles", "bedplate_bundles_dir"):
        yield from _bundles(host)


def _first(hosts: list[Host], group: str, *names: str) -> list[Host]:
    """Of the hosts of a group that agree in these settings the first."""
    found: dict[str, Host] = {}
    for host in hosts:
        if group in host.groups:
            found.setdefault(str([host.setting(name) for name in names]), host)
    return list(found.values())


def _secrets(inventory: Path, password_file: str | None) -> Iterator[Finding]:
    path = inventory / "secrets.yml"
    if not path.exists():
        if (inventory / "authority/ca.key").exists():
            step = f"Put {path} back, or remove {inventory / 'authority'} too: both are made anew, and clients notice."
            yield _secret("an authority whose passphrase is lost with secrets.yml", "both or neither", step)
        return
    if not path.read_text().startswith(VAULTED):
        yield _secret(f"{path} in the clear", "a vaulted file", f"Run: ansible-vault encrypt {quote(str(path))}")
        return
    options = [f"--vault-password-file={password_file}"] if password_file else []
    command = [str(Path(sys.executable).parent / "ansible-vault"), "view", *options, str(path)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if shown.returncode != 0:
        step = "Name the password's file in BEDPLATE_VAULT_PASSWORD_FILE, or put it back to .bedplate/vault-password."
        yield _secret(f"{path} does not open", "the vault's own password", step)
        return
    known = yaml.safe_load(shown.stdout) or {}
    yield from _authority_opens(inventory, known.get("secret_authority_passphrase"))
    # Others are the operator's: a mail server's password may be short.
    for name in _generated() & set(known):
        if not SECRET.fullmatch(str(known[name])) or PLACEHOLDER.search(str(known[name])):
            step = f"Run: ansible-vault edit {quote(str(path))}, and correct or remove the line '{name}: …'"
            yield _secret(f"{name} is too short or a placeholder", "43 or more of A-Z a-z 0-9 _ -", step)


def _authority_opens(inventory: Path, passphrase: Any) -> Iterator[Finding]:
    """Whether the vault's passphrase is the key's, and the key the certificate's."""
    certificate, key = inventory / "authority/ca.crt", inventory / "authority/ca.key"
    if not key.is_file() or passphrase is None:
        return
    step = (
        f"Put the passphrase of {key} back (ansible-vault edit {quote(str(inventory / 'secrets.yml'))}, the line "
        f"'secret_authority_passphrase: …'), or the key and ca.crt that belong to it; both are in the backups."
    )
    try:
        its = load_pem_private_key(key.read_bytes(), str(passphrase).encode()).public_key()
    except (ValueError, TypeError):
        yield _secret(f"secret_authority_passphrase does not open {key}", "the passphrase of the authority", step)
        return
    if certificate.is_file() and not _belong_together(its, x509.load_pem_x509_certificate(certificate.read_bytes())):
        step = f"Put the {certificate} of {key} back, from a backup or from a client that trusts it."
        yield Finding(CONTROL, "certificate", f"{certificate} is of another key", f"that of {key}", step)


def _generated() -> set[str]:
    return set(yaml.safe_load((ROOT / "roles/secrets/vars/main.yml").read_text())["__secrets_new"])


def _secret(found: str, wanted: str, step: str) -> Finding:
    return Finding(CONTROL, "secrets", found, wanted, step)


def _authority(inventory: Path, days: int) -> Iterator[Finding]:
    path = inventory / "authority/ca.crt"
    if path.exists():
        step = f"Remove {path} and run playbooks/prepare.yml; every client needs the new ca.crt."
        yield from _age(CONTROL, path, x509.load_pem_x509_certificate(path.read_bytes()), days, step, None)


def _own_certificate(host: Host, days: int) -> Iterator[Finding]:
    named, key = host.setting("nginx_certificate_file"), host.setting("nginx_certificate_key_file")
    if not named or not key:
        return
    for setting, path in (("nginx_certificate_file", named), ("nginx_certificate_key_file", key)):
        if not Path(path).is_file():
            yield _certificate(host, f"no {path}", "a file of the control machine", "Correct the name.", setting)
            return
    try:
        certificate = x509.load_pem_x509_certificate(Path(named).read_bytes())
        fits = _fits(certificate, Path(key).read_bytes())
    except (ValueError, TypeError) as error:
        step = "Name a certificate and its key in PEM, the key without a passphrase."
        yield _certificate(host, f"{named}: {error}", "a certificate and its key", step, "nginx_certificate_file")
        return
    if not fits:
        step = "Name the pair that belongs together."
        yield _certificate(host, f"{key} is of another one", f"the key of {named}", step, "nginx_certificate_key_file")
    yield from _age(host.name, Path(named), certificate, days, "Get a new one.", "nginx_certificate_file")
    wanted = host.setting("nginx_server_name")
    names = _names(certificate)
    if wanted not in names and f"*.{wanted.split('.', 1)[-1]}" not in names:
        step = "Get a certificate for the name, or correct it."
        yield _certificate(host, f"{named} for {', '.join(names)}", wanted, step, "nginx_server_name")


def _fits(certificate: x509.Certificate, key: bytes) -> bool:
    # What is vaulted the role nginx compares, with the vault open.
    if key.decode(errors="replace").startswith(VAULTED):
        return True
    return _belong_together(load_pem_private_key(key, password=None).public_key(), certificate)


def _belong_together(public: PublicKeyTypes, certificate: x509.Certificate) -> bool:
    pair = (public, certificate.public_key())
    return len({each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in pair}) == 1


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _age(
    host: str, path: Path, certificate: x509.Certificate, days: int, step: str, setting: str | None
) -> Iterator[Finding]:
    now = datetime.now(timezone.utc)
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left = (ends - now).total_seconds() / 86400
    if starts > now or left < days:
        found = f"{path} is good from {starts:%Y-%m-%d} to {ends:%Y-%m-%d}, {left:.0f} days left"
        yield Finding(host, "certificate", found, f"good now and for {days} days", step, setting)


def _certificate(host: Host, found: str, wanted: str, step: str, setting: str) -> Finding:
    return Finding(host.name, "certificate", found, wanted, step, setting)


def _bundles(host: Host) -> Iterator[Finding]:
    names = host.setting("bedplate_bundles")
    folder = Path(host.setting("bedplate_bundles_dir") or ROOT / "build/bundles")
    if not names:
        step = "Name a bundle, such as: bedplate_bundles: [digits]"
        yield Finding(host.name, "bundles", "none declared", "at least one", step, "bedplate_bundles")
    for name in names:
        pattern = f"{name}/SHA256SUMS" if "/" in name else f"{name}/*/SHA256SUMS"
        found = sorted(folder.glob(pattern))
        for manifest in found:
            yield from _damage(host, manifest.parent)
        if not found:
            step = "Make it (make bundles trains the examples), or take its name out."
            yield Finding(
                host.name, "bundles", f"no {folder}/{pattern}", f"the bundle {name}", step, "bedplate_bundles"
            )


def _damage(host: Host, bundle: Path) -> Iterator[Finding]:
    """What the role would refuse later, when other hosts are changed already; signatures it alone knows."""
    try:
        verify_manifest(bundle)
    except BundleError as error:
        step = "Make it again (examples: make bundles), or copy it again."
        yield Finding(host.name, "bundles", str(error), "a bundle as it was made", step, "bedplate_bundles")
