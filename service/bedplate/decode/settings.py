"""The settings of one decoder, read once from decode.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class DecodeSettings:
    # Instance N listens on N/decode.sock here, a directory that no other instance sees.
    socket_dir: Path

    # Of all pictures of a request: one is refused from its header, before a pixel is decoded, because a small file can
    # hold gigabytes of pixels.
    max_pixels: int = field(default=50_000_000, metadata={"unit": "pixels", "min": 1, "max": 1_000_000_000})

    # Of a recording and of a video.
    max_media_s: float = field(default=600.0, metadata={"unit": "s", "min": 1, "max": 86_400})

    # Of processor time that one request may take. Past it the kernel ends the process that decodes.
    max_cpu_s: float = field(default=10.0, metadata={"unit": "s", "min": 0.1, "max": 3600})

    # What decoding one request may take beyond what the program takes asleep.
    max_memory_bytes: int = field(default=1 << 30, metadata={"unit": "bytes", "min": 64 << 20, "max": 64 << 30})

    # The process that decodes is replaced after so many files, or after so long: one that a file took over reads no
    # more of others' than these. Texts do not count among the files, as each process reads their tokenizer anew.
    max_files: int = field(default=1000, metadata={"unit": "files", "min": 1, "max": 1_000_000})
    max_age_s: float = field(default=60.0, metadata={"unit": "s", "min": 0.1, "max": 86_400})

    # Sums (sha256) of the programs of bundles that may run here.
    code: tuple[str, ...] = ()
