"""A web application around a fake engine pool."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from bedplate.web.app import create_app
from bedplate.web.auth import ApiKeys
from bedplate.web.metrics import WebMetrics
from bedplate.web.settings import WebSettings

from tests.service.lamp import FakeEngines

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


@pytest.fixture
def client_of(keys: ApiKeys, metrics: WebMetrics) -> Callable[..., falcon.testing.TestClient]:
    """A client that sends the right key, of an application with these engines and settings."""

    def make(engines: Any, **settings: Any) -> falcon.testing.TestClient:
        web = WebSettings(engines=(Path("/nowhere.sock"),), **settings)
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return falcon.testing.TestClient(create_app(web, engines, keys, metrics), headers=headers)

    return make


@pytest.fixture
def client(client_of: Any, engines: FakeEngines) -> falcon.testing.TestClient:
    return client_of(engines, max_body_bytes=8192, max_pixels=10_000)
