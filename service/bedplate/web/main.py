"""The web program: gunicorn with one ASGI worker around the application (docs/adr/0006)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from bedplate.process import log, settings
from bedplate.process.instance import require_number
from bedplate.process.settings import SettingsError
from bedplate.web.app import create_app
from bedplate.web.auth import ApiKeys
from bedplate.web.engines.pool import EnginePool
from bedplate.web.metrics import WebMetrics
from bedplate.web.settings import WebSettings


def run(settings_file: Path, bind: str | None = None, instance: str | None = None) -> int:
    """Serve until SIGTERM, on the sockets that systemd passed or on `bind` (host:port).

    Args:
        instance: the number of this web among those of the host, for its log lines and its metrics socket.

    Raises:
        SettingsError: a setting or the list of keys cannot be used.
    """
    log.start(f"bedplate-web@{instance}" if instance else "web")
    web = settings.load(WebSettings, settings_file)
    keys = ApiKeys.read(_credential(web.api_keys_file, "api_keys_file", "api-keys"))
    cache_password = _cache_password(web)
    metrics_socket = _metrics_socket(web, instance)
    # Taken from gunicorn, which would announce READY before the application is imported.
    notify_address = os.environ.pop("NOTIFY_SOCKET", None)
    _Gunicorn(web, keys, metrics_socket, notify_address, cache_password, bind, int(instance or 1)).run()
    return 0


class _Gunicorn(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    def __init__(
        self,
        web: WebSettings,
        keys: ApiKeys,
        metrics_socket: Path | None,
        notify_address: str | None,
        cache_password: str,
        bind: str | None,
        instance: int,
    ):
        self._web = web
        self._keys = keys
        self._metrics_socket = metrics_socket
        self._notify_address = notify_address
        self._cache_password = cache_password
        self._bind = bind
        self._instance = instance
        super().__init__()

    def load_config(self) -> None:
        for key, value in _options(self._web, self._bind).items():
            self.cfg.set(key, value)

    def load(self) -> Any:
        """Runs in the worker, so sockets to engines belong to the process that uses them."""
        metrics = WebMetrics()
        return create_app(
            self._web,
            EnginePool(self._web.engines, metrics.engine_retry, self._instance),
            self._keys,
            metrics,
            self._metrics_socket,
            self._notify_address,
            self._cache_password,
            self._instance,
        )


def _options(web: WebSettings, bind: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "worker_class": "bedplate.web.http.worker.Worker",
        "workers": 1,
        "asgi_loop": "uvloop",
        "asgi_lifespan": "on",
        # A stop waits for what is in flight; nothing is in flight longer than its deadline.
        "graceful_timeout": int(web.request_timeout_s) + 1,
        # gunicorn sets it anew on the socket that systemd opened; while it restarts, this many connections wait.
        "backlog": 4096,
        # Seconds. Longer than nginx keeps an idle connection (nginx_upstream_keepalive_timeout_s), so that nginx never
        # sends into one that is being closed; short, because a stop waits for idle connections too.
        "keepalive": 5,
        # More at a time are refused: nginx keeps far fewer.
        "worker_connections": 4096,
        "control_socket_disable": True,
        # Through log.start: gunicorn's own handlers would write plain text.
        "logger_class": "bedplate.web.main.JournalLogger",
    }
    if bind:
        options["bind"] = bind
    return options


class JournalLogger(Logger):  # type: ignore[misc]
    """gunicorn's messages as JSON lines of the root logger. nginx writes the access log."""

    def setup(self, cfg: Any) -> None:
        self._access_log_enabled = False
        self.error_log.propagate = True


def _metrics_socket(web: WebSettings, instance: str | None) -> Path | None:
    if instance:
        require_number(instance)
    if not web.metrics_dir:
        return None
    if not instance:
        raise SettingsError("metrics_dir is set, and --instance is not; add --instance 1, or remove metrics_dir")
    return web.metrics_dir / f"web@{instance}.sock"


def _cache_password(web: WebSettings) -> str:
    if not web.cache_socket:
        return ""
    path = _credential(web.cache_password_file, "cache_password_file", "redis-cache")
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error}); cache_socket needs Redis's password") from None
    if not password:
        raise SettingsError(f"{path}: is empty; cache_socket needs Redis's password")
    return password


def _credential(path: Path | None, key: str, name: str) -> Path:
    """The file that a setting names, or systemd's credential."""
    if path:
        return path
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise SettingsError(f"{key} is not set and there is no credential '{name}'; set one of them")
    return Path(directory) / name
