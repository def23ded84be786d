"""What the control machine does with bundles before a host is touched: damaged ones stop it, the others are signed."""

import hashlib
import subprocess

import bundle_signatures
import pytest
from bedplate.bundle.bundle import BundleError, read_bundle
from bedplate.bundle.manifest import write_manifest, write_signature

SECRET = "x" * 43
BUNDLE = """\
format: 1
name: same
version: "1"
task: tensors
description: Gives back what it gets
inputs: [{name: x, dtype: int8, shape: [2]}]
outputs: [{name: y, dtype: int8, shape: [2]}]
batch: {max_items: 1}
weights: weights.safetensors
network: [identity]
canary: {file: canary.json, expect: expected.json, tolerance: 0}
"""


@pytest.fixture
def bundle(tmp_path):
    directory = tmp_path / "bundles/same/1"
    directory.mkdir(parents=True)
    (directory / "bundle.yaml").write_text(BUNDLE)
    (directory / "canary.json").write_text('{"inputs": [[1, 2]]}')
    (directory / "expected.json").write_text('{"outputs": [[1, 2]]}')
    (directory / "weights.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    write_manifest(directory)
    return directory


@pytest.fixture
def team(tmp_path):
    """A private key, and a list of signers with it."""
    key = tmp_path / "team"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key, f'team namespaces="bedplate-bundle" {key.with_suffix(".pub").read_text()}'


def test_the_fleets_key_signs_what_hosts_verify_and_writes_nothing(bundle, tmp_path):
    before = sorted(bundle.iterdir())
    key = bundle_signatures.fleet_key(SECRET)

    signatures = bundle_signatures.signed_by_fleet({"same/1": bundle}, key)

    assert sorted(bundle.iterdir()) == before
    (bundle / "SHA256SUMS.sig").write_text(signatures["same/1"].signature)
    signers = tmp_path / "signers"
    signers.write_text(f'fleet namespaces="bedplate-bundle" {bundle_signatures.public_text(key)}\n')
    assert read_bundle(bundle, signers).signer == "fleet"


def test_the_same_secret_signs_the_same(bundle):
    again = [
        bundle_signatures.signed_by_fleet({"same/1": bundle}, bundle_signatures.fleet_key(secret))
        for secret in (SECRET, SECRET, "y" * 43)
    ]

    assert again[0] == again[1] != again[2]


def test_a_damaged_bundle_is_not_signed(bundle):
    (bundle / "canary.json").write_text("{}")

    with pytest.raises(BundleError, match=r"canary\.json: has sha256"):
        bundle_signatures.signed_by_fleet({"same/1": bundle}, bundle_signatures.fleet_key(SECRET))


def test_where_others_sign_their_signatures_go_to_the_hosts(bundle, team):
    key, signers = team
    write_signature(bundle, key)

    signatures = bundle_signatures.signed_by_others({"same/1": bundle}, signers)

    assert signatures == {"same/1": ((bundle / "SHA256SUMS.sig").read_text(), ())}


def test_the_sums_of_a_bundles_programs_are_told_and_no_program_runs(bundle, team, tmp_path):
    program = f"open({str(tmp_path / 'it-ran')!r}, 'w')\ndef load(weights): ...\ndef predict(module, batch): ...\n"
    (bundle / "model.py").write_text(program)
    (bundle / "bundle.yaml").write_text(BUNDLE.replace("network: [identity]", "code: model.py"))
    write_manifest(bundle)
    write_signature(bundle, team[0])
    sums = (hashlib.sha256(program.encode()).hexdigest(),)

    for checked in (
        bundle_signatures.signed_by_fleet({"same/1": bundle}, bundle_signatures.fleet_key(SECRET)),
        bundle_signatures.signed_by_others({"same/1": bundle}, team[1]),
    ):
        assert checked["same/1"].programs == sums
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("signed", [False, True])
def test_where_others_sign_the_fleets_signature_does_not_do(bundle, team, signed, tmp_path):
    if signed:
        stranger = tmp_path / "stranger"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
        write_signature(bundle, stranger)

    with pytest.raises(BundleError, match=r"SHA256SUMS\.sig: is (missing|no good).* bedplate_bundle_signers"):
        bundle_signatures.signed_by_others({"same/1": bundle}, team[1])
