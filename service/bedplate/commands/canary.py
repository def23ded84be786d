"""`bedplate canary`: send a real prediction for every model and version to running front ends, and compare the answers.

The bundles on disk say which version is the default, and which answer each canary has to get.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bedplate.bundle.bundle import Bundle, BundleError, read_bundle
from bedplate.engine.catalogue import DEFAULT, Aliases, parse_aliases
from bedplate.engine.settings import EngineSettings
from bedplate.process import settings
from bedplate.process.settings import SettingsError

_AT_A_TIME = 16
_BUSY = 429
_LEAST_S = 0.1


def run(engine_settings: Path, urls: list[str], timeout_s: float) -> int:
    """Print one JSON object per line for each front end and bundle. The API key is read from standard input.

    Returns:
        0 when every answer came, from the version on disk and with the canary's answer; 1 otherwise.

    Raises:
        SettingsError: the settings, or a bundle they name, cannot be read.
    """
    key = sys.stdin.readline().strip()
    declared = settings.load(EngineSettings, engine_settings)
    bundles = [read(directory, declared.bundle_signers) for directory in declared.bundles]
    defaults = default_versions(bundles, parse_aliases(declared.aliases))
    asked = [(url, bundle) for url in urls for bundle in bundles]

    def finding_of(one: tuple[str, Bundle]) -> dict[str, Any]:
        url, bundle = one
        return ask(url, bundle, key, timeout_s, defaults[bundle.name] == bundle.version)

    # Side by side: on a busy host each of them waits.
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        findings = list(threads.map(finding_of, asked))
    for finding in findings:
        print(json.dumps(finding))
    return 0 if findings and all(finding["ok"] for finding in findings) else 1


def _answer(request: urllib.request.Request, give_up_s: float) -> Any:
    # No proxy: the front ends are this host's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        left_s = give_up_s - time.monotonic()
        try:
            with opener.open(request, timeout=max(_LEAST_S, left_s)) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                wait_s = float(refusal.headers.get("Retry-After") or _LEAST_S)
                if refusal.code != _BUSY or wait_s >= left_s:
                    raise
        time.sleep(wait_s)


def read(directory: Path, signers: Path | None) -> Bundle:
    try:
        return read_bundle(directory, signers)
    except BundleError as error:
        raise SettingsError(str(error)) from None


def default_versions(bundles: Iterable[Bundle], aliases: Aliases) -> dict[str, str]:
    """Return for each name the version that clients get if they name none."""
    declared = [(bundle.name, bundle.version) for bundle in bundles]
    firsts = dict(reversed(declared))
    return {name: aliases.get(name, {}).get(DEFAULT, first) for name, first in firsts.items()}


def ask(url: str, bundle: Bundle, key: str, timeout_s: float, is_default: bool = True) -> dict[str, Any]:
    """Send one prediction; return the expected and the actual answer, whether they agree, and the time (ms).

    The request waits in the queue like those of clients, because it measures what clients get. If the server is busy it
    is sent again until the time is over.

    Args:
        is_default: send it without a version, as most clients do; otherwise the version is named.
    """
    version = "" if is_default else f"/versions/{bundle.version}"
    request = urllib.request.Request(
        f"{url}/v1/models/{bundle.name}{version}/predict",
        data=bundle.canary.content,
        # A remembered answer would say nothing about the engine.
        headers={
            "Authorization": f"Bearer {key}",
            "Content-Type": bundle.canary.content_type,
            "Cache-Control": "no-cache",
        },
    )
    started = time.monotonic()
    try:
        document = _answer(request, started + timeout_s)
        found = f"{document['model']} {document['version']}: {bundle.canary.found_in(document['predictions'])}"
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        found = f"no answer: {error}"
    wanted = f"{bundle.name} {bundle.version}: {bundle.canary.wanted}"
    return {
        "url": url,
        "model": bundle.name,
        "wanted": wanted,
        "found": found,
        "ok": found == wanted,
        "latency_ms": round((time.monotonic() - started) * 1000, 1),
    }
