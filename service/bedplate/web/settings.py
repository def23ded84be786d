"""The settings of one web instance, read once from web.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class WebSettings:
    # Sockets of the engines of this host; a request goes to the one with the fewest outstanding.
    engines: tuple[Path, ...]

    # Sockets of the decoders of this host, which turn files into tensors. Without one, only tensors and JSON are taken.
    decoders: tuple[Path, ...] = ()

    # JSON list of {"client", "sha256"}; under systemd it comes as the credential `api-keys`.
    api_keys_file: Path | None = None

    # From the first byte of the request to the answer.
    request_timeout_s: float = field(default=30.0, metadata={"unit": "s", "min": 0.1, "max": 3600})

    # A longer body is refused with 413, before it is read where its length is announced.
    max_body_bytes: int = field(default=50 * 1024 * 1024, metadata={"unit": "bytes", "min": 1024, "max": 1 << 30})

    # Items in one request. A bundle may set a lower bound, never a higher one.
    max_items: int = field(default=64, metadata={"unit": "items", "min": 1, "max": 65_536})

    # Instance N tells its figures on web@N.sock here (docs/metrics.md); nowhere without it.
    metrics_dir: Path | None = None

    # How long an answer is kept to be given again; 0 keeps none.
    cache_ttl_s: int = field(default=3600, metadata={"unit": "s", "min": 0, "max": 30 * 86_400})

    # What kept answers may take in this process.
    cache_memory_bytes: int = field(default=16 << 20, metadata={"unit": "bytes", "min": 0, "max": 16 << 30})

    # Where Redis is reached, which keeps answers for all hosts. None: this process's memory is all.
    cache_socket: Path | None = None

    # Holds the password of Redis's user bedplate-web; under systemd it comes as the credential `redis-cache`.
    cache_password_file: Path | None = None

    # What asking Redis may take. Past it the answer is computed.
    cache_timeout_ms: float = field(default=50.0, metadata={"unit": "ms", "min": 1, "max": 10_000})

    # Redis is left out for a model whose engine answers faster than this on the mean: computing is no slower.
    cache_shared_min_ms: float = field(default=5.0, metadata={"unit": "ms", "min": 0, "max": 3_600_000})

    # Lines about answered predictions in the performance log, and as many about others. What is more is only counted.
    performance_lines_per_s: int = field(default=100, metadata={"unit": "lines/s", "min": 0, "max": 100_000})

    # Lines about refused credentials in the security log. What is more is counted, and told as a number each second.
    security_lines_per_s: int = field(default=20, metadata={"unit": "lines/s", "min": 0, "max": 100_000})

    # What the bodies of all requests in flight may take together. What would be more is refused with 429 before it is
    # read. Each takes about three times its length until it is answered.
    max_inflight_bytes: int = field(default=128 << 20, metadata={"unit": "bytes", "min": 1024, "max": 16 << 30})

    # What decoders take of a recording: it bounds what they may answer.
    max_media_s: float = field(default=600.0, metadata={"unit": "s", "min": 1, "max": 86_400})
