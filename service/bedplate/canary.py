"""`bedplate canary`: one real prediction of each model, asked of running front ends, compared with what is known.

The bundles on disk say which version clients should get and what its canary is answered with.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bedplate import settings
from bedplate.bundle import Bundle, BundleError, read_bundle
from bedplate.engine.catalogue import DEFAULT, Aliases, parse_aliases
from bedplate.engine.settings import EngineSettings
from bedplate.settings import SettingsError


def run(engine_settings: Path, urls: list[str], timeout_s: float) -> int:
    """Print one JSON object a line for each front end and model; the API key is read from standard input.

    Returns:
        0 when every answer came, from the version on disk and with the canary's answer; 1 otherwise.

    Raises:
        SettingsError: the settings, or a bundle they name, cannot be read.
    """
    key = sys.stdin.readline().strip()
    declared = settings.load(EngineSettings, engine_settings)
    bundles = default_versions(declared.bundles, parse_aliases(declared.aliases), declared.bundle_signers)
    findings = [ask(url, bundle, key, timeout_s) for url in urls for bundle in bundles]
    for finding in findings:
        print(json.dumps(finding))
    return 0 if findings and all(finding["ok"] for finding in findings) else 1


def default_versions(directories: Iterable[Path], aliases: Aliases, signers: Path | None = None) -> list[Bundle]:
    """Of each name the bundle that clients get who ask for no version."""
    bundles: dict[str, Bundle] = {}
    for directory in directories:
        try:
            bundle = read_bundle(directory, signers)
        except BundleError as error:
            raise SettingsError(str(error)) from None
        if aliases.get(bundle.name, {}).get(DEFAULT, bundle.version) == bundle.version:
            bundles.setdefault(bundle.name, bundle)
    return list(bundles.values())


def ask(url: str, bundle: Bundle, key: str, timeout_s: float) -> dict[str, Any]:
    """One prediction: what was wanted, what was found, whether they agree, and how long it took (ms)."""
    request = urllib.request.Request(
        f"{url}/v1/models/{bundle.name}/predict",
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
        # No proxy: the front ends are this host's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout_s) as answer:
            document = json.load(answer)
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
