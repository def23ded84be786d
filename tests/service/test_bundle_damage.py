"""A hundred damaged bundles are brought to a host that serves: each is refused, and nobody who asks notices."""

import asyncio
import random
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch
import yaml
from bedplate.bundle.bundle import BundleError
from bedplate.bundle.manifest import write_manifest, write_signature
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.settings import EngineSettings
from bedplate.engine.start import start

from tests.service.models_tools import serving_engine
from tests.service.signing_tools import host, make_key, signed_version, signer

TRIES_OF_EACH = 10
FILES = ["SHA256SUMS", "SHA256SUMS.sig", "bundle.yaml", "canary.png", "weights.safetensors"]


class Damage:
    """One seeded damage of the bundle in `directory`; `other` is a good one, signed by the same key."""

    def __init__(self, seed: int, directory: Path, other: Path, keys: dict[str, Path]):
        self.random = random.Random(seed)
        self.directory, self.other, self.keys = directory, other, keys

    def some_file(self, names=FILES) -> Path:
        return self.directory / self.random.choice(names)

    def flipped_bit(self):
        file = self.some_file()
        content = bytearray(file.read_bytes())
        content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
        file.write_bytes(content)

    def truncation(self):
        file = self.some_file()
        file.write_bytes(file.read_bytes()[: self.random.randrange(file.stat().st_size)])

    def swapped_files(self):
        one, two = (self.directory / name for name in self.random.sample(FILES, 2))
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)

    def file_of_another_bundle(self):
        # Its canary is the same: that is no damage.
        file = self.some_file([name for name in FILES if name != "canary.png"])
        shutil.copy(self.other / file.name, file)

    def extra_file(self):
        name = self.random.choice(["extra.py", "weights2.safetensors", "README.md", "sitecustomize.py", ".hidden"])
        (self.directory / name).write_bytes(self.random.randbytes(self.random.randrange(100)))

    def missing_file(self):
        self.some_file().unlink()

    def wrong_key(self):
        write_signature(self.directory, self.keys["stranger"])

    def edited_but_not_signed(self):
        signature = (self.directory / "SHA256SUMS.sig").read_bytes()
        document = yaml.safe_load((self.directory / "bundle.yaml").read_text())
        document["description"] += self.random.choice("abc")
        (self.directory / "bundle.yaml").write_text(yaml.safe_dump(document))
        write_manifest(self.directory)
        (self.directory / "SHA256SUMS.sig").write_bytes(signature)

    def ended_signer(self):
        write_signature(self.directory, self.keys[self.random.choice(["ended", "early"])])

    def signature_for_something_else(self):
        (self.directory / "SHA256SUMS.sig").unlink()
        namespace = self.random.choice(["git", "file", "bedplate", "bedplate-bundle2"])
        sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(self.keys["signer"])]
        subprocess.run([*sign, str(self.directory / "SHA256SUMS")], check=True, stderr=subprocess.DEVNULL)


KINDS = {
    Damage.flipped_bit: ["no good signature", "has sha256"],
    Damage.truncation: ["no good signature", "has sha256"],
    Damage.swapped_files: ["no good signature", "has sha256"],
    Damage.file_of_another_bundle: ["no good signature", "has sha256"],
    Damage.extra_file: ["is not listed in SHA256SUMS", "file name '.hidden' does not do"],
    Damage.missing_file: ["is missing", "and missing"],
    Damage.wrong_key: ["no good signature"],
    Damage.edited_but_not_signed: ["no good signature"],
    Damage.ended_signer: ["no good signature"],
    Damage.signature_for_something_else: ["no good signature"],
}


@pytest.fixture
def keys(tmp_path):
    return {name: make_key(tmp_path, name) for name in ("signer", "stranger", "ended", "early")}


class Client(threading.Thread):
    """Asks for predictions until it is told to stop, and remembers who answered."""

    def __init__(self, served):
        super().__init__()
        self.versions: list[str] = []
        self._served = served
        self._ending = threading.Event()

    def run(self):
        while not self._ending.is_set():
            try:
                self.versions.append(self._served.answering_version())
            except Exception as error:
                self.versions.append(repr(error))

    def stop(self):
        self._ending.set()
        self.join()


def test_a_hundred_damaged_bundles_are_refused_and_the_old_version_answers_throughout(tmp_path, keys):
    models = tmp_path / "models"
    signed_version(models, "1", keys["signer"])
    good = signed_version(models, "2", keys["signer"])
    other = signed_version(models, "3", keys["signer"])
    usual = 'namespaces="bedplate-bundle"'
    signers = signer(keys["signer"]) + signer(keys["ended"], f'{usual},valid-before="20200101"')
    signers += signer(keys["early"], f'{usual},valid-after="20900101"')
    told = {}

    with host(tmp_path, signers, "lamp/1") as served:
        client = Client(served)
        client.start()
        for number in range(len(KINDS) * TRIES_OF_EACH):
            kind = list(KINDS)[number % len(KINDS)]
            directory = models / "lamp" / f"damaged-{number}"
            shutil.copytree(good, directory)
            kind(Damage(number, directory, other, keys))
            told[number, kind] = served.load(f"lamp/damaged-{number}").get("error")
        client.stop()
        loaded = served.loaded()
        whole = served.load("lamp/2")

    assert len(told) == 100
    for (number, kind), error in told.items():
        assert error, f"{kind.__name__} {number} was loaded"
        assert any(words in error for words in KINDS[kind]), f"{kind.__name__} {number}: {error}"
    assert loaded == {"1": ["default"]}
    assert len(client.versions) > 100
    assert set(client.versions) == {"1"}
    assert whole["changed"]  # what was damaged was good before


def test_an_engine_that_starts_with_a_damaged_bundle_serves_the_others(tmp_path, keys):
    models = tmp_path / "models"
    bundles = (signed_version(models, "3", keys["stranger"]), signed_version(models, "2", keys["signer"]))
    (tmp_path / "signers").write_text(signer(keys["signer"]))
    aliases = ("lamp/default=3", "lamp/old=2")

    with serving_engine(tmp_path, bundles=bundles, aliases=aliases, bundle_signers=tmp_path / "signers") as engine:
        loaded = engine.loaded()

    assert loaded == {"2": ["default", "old"]}


def test_an_engine_whose_bundles_are_all_damaged_does_not_start(tmp_path, keys):
    bundle = signed_version(tmp_path / "models", "2", keys["stranger"])
    (tmp_path / "signers").write_text(signer(keys["signer"]))
    settings = EngineSettings(socket_dir=tmp_path, bundles=(bundle,), bundle_signers=tmp_path / "signers")

    with pytest.raises(BundleError, match="no good signature"):
        asyncio.run(start(settings, "cpu0", torch.device("cpu"), EngineMetrics(), lambda: None, Model.load))


def test_a_signer_who_is_taken_off_the_list_signs_no_more(tmp_path, keys):
    models = tmp_path / "models"
    bundles = [signed_version(models, version, keys["signer"]) for version in "23"]
    signers = tmp_path / "signers"
    signers.write_text(signer(keys["signer"]))

    with serving_engine(tmp_path, bundles=tuple(bundles[:1]), bundle_signers=signers) as engine:
        signers.write_text(signer(keys["stranger"]))
        refused = engine.ask(do="load", directory="lamp/3")["error"]
        still = engine.loaded()
        signers.write_text(signer(keys["stranger"]) + signer(keys["signer"]))
        again = engine.ask(do="load", directory="lamp/3")

    assert "no good signature of anybody in" in refused
    assert still == {"2": ["default"]}
    assert again["changed"]
