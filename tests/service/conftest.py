"""A web application around a fake engine pool."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from bedplate.commands import cli
from bedplate.web.app import create_app
from bedplate.web.auth import ApiKeys
from bedplate.web.items.decoders import Decoders
from bedplate.web.metrics import WebMetrics
from bedplate.web.settings import WebSettings
from hypothesis import settings

from tests.service.decoder_tools import running_decoder
from tests.service.lamp import FakeEngines
from tests.service.running_service import RunningService, running_service

# Chosen by `make acceptance`; what it changes stands where it is asked for.
settings.register_profile("acceptance")

API_KEY = "bp_test-key"


@pytest.fixture
def engines() -> FakeEngines:
    return FakeEngines()


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    path = tmp_path / "api-keys"
    path.write_text(json.dumps([{"client": "tests", "sha256": hashlib.sha256(API_KEY.encode()).hexdigest()}]))
    return ApiKeys.read(path)


@pytest.fixture
def metrics() -> WebMetrics:
    return WebMetrics()


@pytest.fixture(scope="session")
def decoder_of() -> Iterator[Callable[..., Path]]:
    """The socket of a decoder with these settings; it runs until the last test."""
    known: dict[Any, Path] = {}
    with contextlib.ExitStack() as programs:

        def make(**settings: Any) -> Path:
            key = tuple(sorted(settings.items()))
            if key not in known:
                known[key] = programs.enter_context(running_decoder(**settings)).path
            return known[key]

        yield make


@pytest.fixture(scope="module")
def served() -> Path | None:
    """The bundle that `service` serves; a module that wants another than the lamp says so."""
    return None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, served: Path | None) -> Iterator[RunningService]:
    """The whole service, for all tests of a module."""
    with running_service(tmp_path_factory.mktemp("service"), bundle=served) as running:
        yield running


@pytest.fixture
def decoders(decoder_of: Callable[..., Path]) -> Decoders:
    return Decoders([decoder_of()])


@pytest.fixture
def silent_decoders(tmp_path: Path) -> Iterator[Decoders]:
    """One that takes what it is sent and never answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent.sock"))
        listener.listen()
        yield Decoders([tmp_path / "silent.sock"])


@pytest.fixture
def client_of(
    keys: ApiKeys, metrics: WebMetrics, decoder_of: Callable[..., Path]
) -> Callable[..., falcon.testing.TestClient]:
    """A client that sends the right key, of an application with these engines and settings and a real decoder."""

    def make(engines: Any, max_pixels: int = 50_000_000, **settings: Any) -> falcon.testing.TestClient:
        settings.setdefault("decoders", (decoder_of(max_pixels=max_pixels),))
        web = WebSettings(engines=(Path("/nowhere.sock"),), **settings)
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return falcon.testing.TestClient(create_app(web, engines, keys, metrics), headers=headers)

    return make


@pytest.fixture
def client(client_of: Any, engines: FakeEngines) -> falcon.testing.TestClient:
    return client_of(engines, max_body_bytes=8192, max_pixels=10_000)


@pytest.fixture
def bundle_import(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """bundle_import("hf", folder, …) → status, output and errors of the command, which keeps its network here."""
    monkeypatch.setattr("bedplate.importers.offline.stay_offline", lambda: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["bundle", "import", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run
