"""JSON log lines on standard error, where the journal takes them: one event a line, request id in, payload out.

There are three streams by the logger's name: `bedplate.…` (application), `bedplate.performance`, `bedplate.security`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from typing import Any

_STREAMS = {"bedplate.performance": "performance", "bedplate.security": "security"}
_PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
# What every LogRecord has; anything else came in by `extra=` and belongs into the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "stream": _STREAMS.get(record.name, "application"),
            "unit": self._unit,
            "event": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # ASCII only: escapes what could forge a second line or move a terminal's cursor.
        return json.dumps(line, default=str)


class _Prioritised(JsonFormatter):
    """With the level as systemd reads it, so that `journalctl -p warning` finds the line; the journal strips it."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITIES.get(record.levelname, 6)}>{super().format(record)}"


def _is_journal() -> bool:
    """Whether standard error is what systemd connected; the variable alone may be inherited from such a process."""
    status = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def start(unit: str, level: str = "INFO") -> None:
    """Send all logging of this process to standard error as JSON, under the name of its unit."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Prioritised(unit) if _is_journal() else JsonFormatter(unit))
    logging.basicConfig(level=level, handlers=[handler], force=True)
