"""Keys of people who sign bundles, and a host of one engine and one front end that asks for their signatures."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from bedplate.bundle.manifest import write_signature
from bedplate.commands import models as models_command

from tests.service.lamp import png_of
from tests.service.models_tools import write_version
from tests.service.running_service import KEY, running_web
from tests.service.test_engine_process import START_S, Systemd, process

BRIGHT = png_of([[255, 255], [255, 255]])


def make_key(folder: Path, name: str) -> Path:
    """A private key; its public one lies beside it."""
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
    return path


def signer(key: Path, options: str = 'namespaces="bedplate-bundle"', name: str = "") -> str:
    """A line of allowed_signers."""
    return f"{name or key.name} {options} {Path(f'{key}.pub').read_text()}"


def signed_version(models: Path, version: str, key: Path, **changes: Any) -> Path:
    directory = write_version(models, version, **changes)
    write_signature(directory, key)
    return directory


@dataclass(frozen=True)
class Host:
    folder: Path
    port: int  # of the front end

    def load(self, directory: str) -> dict[str, Any]:
        """The engine's answer, or {"error": why not}."""
        return self.ask(do="load", directory=directory)

    def ask(self, **question: Any) -> dict[str, Any]:
        try:
            return models_command.ask(self.folder / "admin/cpu0.sock", question, START_S)
        except models_command.EngineError as error:
            return {"error": str(error)}

    def loaded(self) -> dict[str, list[str]]:
        """Aliases by version."""
        return {model["version"]: model["aliases"] for model in self.ask(do="list")["models"]}

    def post(self, path: str, body: bytes, content_type: str = "image/png", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            sent = {"Authorization": f"Bearer {KEY}", "Content-Type": content_type, "Cache-Control": "no-cache"}
            connection.request("POST", path, body, {**sent, **named})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def answering_version(self) -> str:
        """Which version computes an answer for who asks for none."""
        status, body = self.post("/v1/models/lamp/predict", BRIGHT)
        assert status == 200, body
        return str(json.loads(body)["version"])


@contextlib.contextmanager
def host(
    folder: Path, signers: str, *bundles: str, web: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Host]:
    """Both programs, with the bundles of `folder`/models that are named."""
    (folder / "admin").mkdir()
    (folder / "signers").write_text(signers)
    declared = {
        "socket_dir": str(folder),
        "bundles": [str(folder / "models" / bundle) for bundle in bundles],
        "admin_dir": str(folder / "admin"),
        "models_dir": str(folder / "models"),
        "bundle_signers": str(folder / "signers"),
    }
    (folder / "engine.yaml").write_text(yaml.safe_dump(declared | settings))
    with contextlib.closing(Systemd(folder)) as systemd, process(folder, NOTIFY_SOCKET=systemd.address) as engine:
        assert systemd.next()[0] == "READY=1"
        with running_web(folder, **(web or {})) as port:
            yield Host(folder, port)
        engine.terminate()
        engine.communicate(timeout=START_S)
