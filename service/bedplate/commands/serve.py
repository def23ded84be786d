"""`bedplate serve BUNDLE`: run the programs of a host on a laptop, without Ansible or systemd."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from bedplate.bundle.bundle import BundleError, read_bundle

_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 40
_KEY_VARIABLE = "BEDPLATE_API_KEY"


class _Stopped(Exception):
    """A program ended, or somebody asked us to end."""


def serve(bundles: Sequence[Path], host: str, port: int, allow_code: bool) -> int:
    """Run engine, decoder and web until Ctrl-C or SIGTERM, or until one of them ends.

    The API key is $BEDPLATE_API_KEY, or a new one that is printed. Returns the exit status.

    Args:
        allow_code: allow the programs that the bundles bring now to run.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    key = os.environ.get(_KEY_VARIABLE) or "bp_" + secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="bedplate-") as name, contextlib.ExitStack() as programs:
        folder = Path(name)
        _write_settings(folder, bundles, key, _programs(bundles) if allow_code else [])
        try:
            # Entered first, so stopped last: the web drains into a living engine.
            engine = programs.enter_context(
                _program("engine", "--device", "cpu0", "--settings", f"{folder}/engine.yaml")
            )
            decoder = programs.enter_context(
                _program("decode", "--instance", "1", "--settings", f"{folder}/decode.yaml")
            )
            web = programs.enter_context(
                _program("web", "--settings", f"{folder}/web.yaml", "--bind", f"{host}:{port}")
            )
            _wait_until_ready(f"http://{host}:{port}", [engine, decoder, web])
            _explain(f"http://{host}:{port}", None if _KEY_VARIABLE in os.environ else key)
            while all(program.poll() is None for program in (engine, decoder, web)):
                time.sleep(0.5)
            raise _Stopped("a program ended by itself; its last lines above say why")
        except KeyboardInterrupt:
            return 0
        except _Stopped as reason:
            print(f"bedplate serve: {reason}", file=sys.stderr)
            return 1
        finally:
            # A second signal must not interrupt the stopping of the programs.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _programs(bundles: Sequence[Path]) -> list[str]:
    """Sums of the bundles' programs. What is wrong with a bundle its engine tells."""
    sums: list[str] = []
    for directory in bundles:
        with contextlib.suppress(BundleError):
            sums += read_bundle(directory).code_sums
    return sums


def _write_settings(folder: Path, bundles: Sequence[Path], key: str, programs: list[str]) -> None:
    code = {"code": programs} if programs else {}
    keys = [{"client": "laptop", "sha256": hashlib.sha256(key.encode()).hexdigest()}]
    (folder / "api-keys").write_text(json.dumps(keys))
    engine = {"socket_dir": str(folder), "bundles": [str(bundle.resolve()) for bundle in bundles], **code}
    (folder / "engine.yaml").write_text(yaml.safe_dump(engine))
    decoder = {"socket_dir": str(folder), **code}
    (folder / "decode.yaml").write_text(yaml.safe_dump(decoder))
    web = {
        "engines": [f"{folder}/cpu0.sock"],
        "decoders": [f"{folder}/1/decode.sock"],
        "api_keys_file": f"{folder}/api-keys",
    }
    (folder / "web.yaml").write_text(yaml.safe_dump(web))


@contextlib.contextmanager
def _program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C reaches us alone, and we stop the programs in order.
    program = subprocess.Popen([sys.executable, "-m", "bedplate", *arguments], start_new_session=True)
    try:
        yield program
    finally:
        program.terminate()
        try:
            program.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


def _wait_until_ready(url: str, programs: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if any(program.poll() is not None for program in programs):
            raise _Stopped("a program did not start; its last lines above say why")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health/ready"):
            return
        time.sleep(0.1)
    raise _Stopped(f"not ready after {_START_TIMEOUT_S} s")


def _explain(url: str, key: str | None) -> None:
    shown = key or f"${_KEY_VARIABLE}"
    print(
        f"\nServing on {url}\n\n  curl -H 'Authorization: Bearer {shown}' {url}/v1/models\n\nCtrl-C stops.", flush=True
    )


def _on_sigterm(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
