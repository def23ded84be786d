"""JSON log lines on standard error, where the journal takes them: one event a line, request id in, payload out.

Three streams, told apart by the logger's name: `bedplate.…` (application), `bedplate.performance`, `bedplate.security`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

_STREAMS = {"bedplate.performance": "performance", "bedplate.security": "security"}
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


def start(unit: str, level: str = "INFO") -> None:
    """Send all logging of this process to standard error as JSON, under the name of its unit."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(unit))
    logging.basicConfig(level=level, handlers=[handler], force=True)
