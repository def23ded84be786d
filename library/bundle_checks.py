#!/usr/bin/python
"""Ansible module, for the control machine: `bedplate bundle check` of each bundle, once for each content."""

from __future__ import annotations

DOCUMENTATION = """
module: bundle_checks
short_description: Refuses bundles that do not keep their word, before anything is copied
description:
  - Each bundle answers its canary and computes its validation set here, by C(bedplate bundle check); one that is wrong
    or below its own threshold is refused by name and figure. One that brings no validation set answers its canary only.
  - What passed is recorded by the digest of the bundle, sealed with the fleet's secret, so that it is computed once.
    Another precision, torch or version of the service is computed anew.
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
  precision:
    description: What engines compute in.
    type: str
    required: true
  code:
    description: Names of bundles whose programs may run here.
    type: list
    elements: str
    default: []
  records:
    description: Where the records are kept.
    type: path
    required: true
  secret:
    description: What the records are sealed with.
    type: str
    required: true
"""

import hashlib
import hmac
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from bedplate.bundle.bundle import BundleError, read_bundle

# Longer than a validation set takes that a person would wait for.
TIMEOUT_S = 3600


class Refused(Exception):
    """Why a bundle is not copied, in words for the operator."""


class Records:
    """What passed, a file for each: what was checked and how, and a seal that only who has the secret can make."""

    def __init__(self, folder, secret):
        self.folder = folder
        self.key = hashlib.sha256(f"bundle checks:{secret}".encode()).digest()

    def has(self, facts):
        try:
            text = self._path(facts).read_text()
        except OSError:
            return False
        return hmac.compare_digest(text.encode(), self._sealed(facts).encode())

    def add(self, facts):
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Beside others that write the same: whole, or not there.
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            file.write(self._sealed(facts))
        os.replace(file.name, self._path(facts))

    def _path(self, facts):
        return self.folder / f"{hashlib.sha256(self._text(facts)).hexdigest()}.json"

    def _sealed(self, facts):
        seal = hmac.new(self.key, self._text(facts), "sha256").hexdigest()
        return json.dumps({**facts, "seal": seal}, indent=1) + "\n"

    @staticmethod
    def _text(facts):
        return json.dumps(facts, sort_keys=True).encode()


def facts_of(bundle, precision):
    """What a result holds for: other content or another program may give another one."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "precision": precision,
        "bedplate": importlib.metadata.version("bedplate"),
        "torch": importlib.metadata.version("torch"),
    }


def check(directory, precision, may_run_code, records, timeout_s=TIMEOUT_S):
    """What was computed, as lines; none where a record says that it was. Raises Refused."""
    try:
        bundle = read_bundle(directory)
        facts = facts_of(bundle, precision)
        if records.has(facts):
            return []
        said = compute(directory, precision, may_run_code, bundle.validation is None, timeout_s)
        if read_bundle(directory).digest != bundle.digest:
            raise Refused(f"{directory}: has changed while it was checked; run again")
    except BundleError as error:
        raise Refused(str(error)) from None
    records.add(facts)
    return said


def compute(directory, precision, may_run_code, is_unmeasured, timeout_s):
    """In a process of its own, which may take memory and time, and ends with it."""
    command = [sys.executable, "-m", "bedplate", "bundle", "check", str(directory), f"--precision={precision}"]
    command += ["--allow-code"] if may_run_code else []
    command += ["--canary-only"] if is_unmeasured else []
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused(
            f"{directory}: 'bedplate bundle check' did not end within {timeout_s} s; use a smaller validation set"
        ) from None
    if done.returncode:
        said = done.stderr.strip() or f"ended with status {done.returncode}; is there memory for the model?"
        raise Refused(said.replace("bedplate bundle: ", "")[-1500:])
    return done.stdout.splitlines()


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "bundles": {"type": "list", "elements": "str", "required": True},
            "precision": {"type": "str", "required": True},
            "code": {"type": "list", "elements": "str", "default": []},
            "records": {"type": "path", "required": True},
            "secret": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    records = Records(Path(given["records"]), given["secret"])
    computed, refused = {}, []
    for name in given["bundles"]:
        may_run_code = name.split("/")[0] in given["code"]
        try:
            computed[name] = check(Path(given["directory"], name), given["precision"], may_run_code, records)
        except Refused as refusal:
            refused.append(str(refusal))
    if refused:
        module.fail_json(msg=f"{'; '.join(refused)}. Nothing was copied and no host was touched.")
    module.exit_json(changed=False, computed={name: said for name, said in computed.items() if said})


if __name__ == "__main__":
    main()
