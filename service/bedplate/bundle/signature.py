"""Signing and verifying SHA256SUMS by `ssh-keygen -Y`, with keys and lists of signers in OpenSSH's formats."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bedplate.bundle.strict_yaml import BundleError

# A signature says what it is of: one that a key gave to a commit of git, or to a mail, does for no bundle.
NAMESPACE = "bedplate-bundle"
# As ssh-keygen writes it. It reads more than that: another blank between the lines would go unnoticed.
_ARMOUR = re.compile(rb"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/]{1,76}={0,2}\n)+-----END SSH SIGNATURE-----\n")
_VERIFY_TIMEOUT_S = 10
_SIGN_TIMEOUT_S = 120  # somebody may have to type a passphrase, or touch a token


def sign(content: bytes, key: Path) -> bytes:
    """Return the signature of `content`.

    Args:
        key: a private key, or a public key whose private key an agent holds.

    Raises:
        BundleError: ssh-keygen cannot sign with it.
    """
    if not key.is_file():
        raise BundleError(f"{key}: is no file; name a private key, as 'ssh-keygen -t ed25519 -f {key}' makes one")
    done = _ssh_keygen(["sign", "-n", NAMESPACE, "-f", str(key)], content, _SIGN_TIMEOUT_S)
    if done.returncode != 0 or not done.stdout:
        raise BundleError(f"{key}: does not sign ({_said(done)}); name a private key that opens")
    return done.stdout


def signer_of(content: bytes, signature: bytes, signers: Path, source: Path) -> str:
    """Verify `signature` and return which of `signers` signed `content`.

    Args:
        source: the file that the signature was read from, for the message.

    Raises:
        BundleError: no signer made it, it belongs to other content, or the key was not valid at the time.
    """
    if not _ARMOUR.fullmatch(signature):
        raise _refused(source, signers, "not as ssh-keygen writes one")
    with tempfile.TemporaryDirectory() as folder:
        # The bytes that were read, and not what lies there now.
        copy = Path(folder, "signature")
        copy.write_bytes(signature)
        asked = ["-n", NAMESPACE, "-s", str(copy), "-f", str(signers)]
        found = _ssh_keygen(["find-principals", *asked], b"", _VERIFY_TIMEOUT_S)
        name = found.stdout.decode("utf-8", "replace").partition("\n")[0]
        if found.returncode != 0 or not name:
            raise _refused(source, signers, _said(found))
        done = _ssh_keygen(["verify", *asked, "-I", name], content, _VERIFY_TIMEOUT_S)
        if done.returncode != 0:
            raise _refused(source, signers, _said(done))
    return name


def key_of(content: bytes, signature: bytes, source: Path) -> str:
    """Return the fingerprint of the key that signed `content`, whether or not anybody trusts it.

    Raises:
        BundleError: the signature does not belong to the content.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "signature")
        copy.write_bytes(signature)
        done = _ssh_keygen(["check-novalidate", "-n", NAMESPACE, "-s", str(copy)], content, _VERIFY_TIMEOUT_S)
    if done.returncode != 0:
        raise BundleError(f"{source}: is no signature of this SHA256SUMS ({_said(done)}); sign the bundle again")
    # Good "bedplate-bundle" signature with ED25519 key SHA256:...
    return done.stdout.decode("utf-8", "replace").strip().rpartition(" with ")[2]


def _ssh_keygen(arguments: Sequence[str], given: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", *arguments], input=given, capture_output=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError:
        raise BundleError("ssh-keygen: is not installed; install the package openssh-client") from None
    except subprocess.TimeoutExpired:
        raise BundleError(f"ssh-keygen: did not end within {timeout_s:g} s; try again") from None


def _refused(source: Path, signers: Path, reason: str) -> BundleError:
    return BundleError(
        f"{source}: is no good signature of anybody in {signers} ({reason}); copy the bundle again, let one of "
        "them sign it, or add whose key it is"
    )


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    text = "; ".join(lines) or f"status {done.returncode}"
    return "".join(char if char.isprintable() else "?" for char in text)[:300]
