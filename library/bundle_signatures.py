#!/usr/bin/python
"""Ansible module, for the control machine: checks bundles before a host is touched, and gives their signatures."""

from __future__ import annotations

DOCUMENTATION = """
module: bundle_signatures
short_description: Checks bundles on the control machine and gives their signatures
description:
  - Every file of each bundle is compared with its SHA256SUMS.
  - With C(signers) each bundle has to bring a signature of one of them; without, the fleet's own key signs it.
  - C(programs) of the answer has, of each bundle that brings programs, their sums.
  - Nothing is written. A signature by the fleet's key is always the same, so that a second run changes nothing.
options:
  directory:
    description: Where the bundles are.
    type: path
    required: true
  bundles:
    description: Which of them, as NAME/VERSION.
    type: list
    elements: str
    required: true
  signers:
    description: Who may sign, as OpenSSH's allowed_signers; empty where the fleet's key signs.
    type: str
    default: ""
  secret:
    description: What the fleet's key is made from.
    type: str
    required: true
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule
from bedplate.bundle import signature
from bedplate.bundle.bundle import BundleError, read_bundle
from bedplate.bundle.manifest import MANIFEST, SIGNATURE
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Checked(NamedTuple):
    """What was found about a bundle whose sums, and maybe signature, are right."""

    signature: str
    programs: tuple[str, ...]  # their sums


def fleet_key(secret):
    """As a password of the backups does, the key comes from the vault, and is kept nowhere else."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"bundles:{secret}".encode()).digest())


def public_text(key):
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()


def signed_by_fleet(directories, key):
    """By directory, bundles whose sums are right, with the fleet's signature."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key")
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
        return {name: _signed(directory, path) for name, directory in directories.items()}


def _signed(directory, key):
    bundle = read_bundle(directory)
    content = (directory / MANIFEST).read_bytes()
    # What is signed is what was compared.
    if hashlib.sha256(content).hexdigest() != bundle.digest:
        raise BundleError(f"{directory}: has changed while it was signed; run again")
    return Checked(signature.sign(content, key).decode(), bundle.code_sums)


def signed_by_others(directories, signers):
    """By directory, bundles that one of the signers signed, with that signature."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "signers")
        path.write_text(signers)
        try:
            bundles = {name: read_bundle(directory, path) for name, directory in directories.items()}
        except BundleError as error:
            raise BundleError(str(error).replace(str(path), "bedplate_bundle_signers")) from None
    return {
        name: Checked((directory / SIGNATURE).read_text(), bundles[name].code_sums)
        for name, directory in directories.items()
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "bundles": {"type": "list", "elements": "str", "required": True},
            "signers": {"type": "str", "default": ""},
            "secret": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    key = fleet_key(module.params["secret"])
    directories = {name: Path(module.params["directory"], name) for name in module.params["bundles"]}
    signers = module.params["signers"]
    try:
        checked = signed_by_others(directories, signers) if signers else signed_by_fleet(directories, key)
    except (BundleError, OSError) as error:
        module.fail_json(msg=f"{error}. This host was not touched.")
    module.exit_json(
        changed=False,
        signatures={name: one.signature for name, one in checked.items()},
        programs={name: one.programs for name, one in checked.items() if one.programs},
        public_key=public_text(key),
    )


if __name__ == "__main__":
    main()
