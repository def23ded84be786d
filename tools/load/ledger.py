"""One record per request, whatever became of it, and what they add up to."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

# A request that leaves later than this after its moment is counted: the generator or its connection limit held it up.
LATE_S = 0.005


@dataclass(frozen=True)
class Record:
    """Times are seconds since the start. `sent` is when a connection was taken or began to open."""

    id: int
    body: int  # position of the body that was sent
    intended: float
    sent: float
    done: float
    status: int | None
    error: str | None  # refused, unreachable, reset, closed, timeout, tls, malformed, wrong-body
    sha256: str | None  # of the answer's body
    bytes: int  # of the answer's body
    retry_after: str | None
    reused: bool  # the connection had carried a request before

    @property
    def failed(self) -> bool:
        return self.error is not None or self.status is None or not 200 <= self.status < 300

    @property
    def latency_s(self) -> float:
        return self.done - self.intended


def write_line(file: TextIO, record: Record) -> None:
    file.write(json.dumps(asdict(record)) + "\n")


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Latencies are of the requests that succeeded: a fast refusal must not make the figures look better."""
    good = sorted(record.latency_s for record in records if not record.failed)
    lags = sorted(record.sent - record.intended for record in records)
    took_s = max((record.done for record in records), default=0.0)
    return {
        "sent": len(records),
        "answered": sum(record.status is not None for record in records),
        "failed": sum(record.failed for record in records),
        "statuses": _counts(record.status for record in records),
        "errors": _counts(record.error for record in records),
        "latency_ms": {
            "p50": _milliseconds(percentile(good, 0.50)),
            "p90": _milliseconds(percentile(good, 0.90)),
            "p99": _milliseconds(percentile(good, 0.99)),
            "max": _milliseconds(percentile(good, 1.0)),
        },
        "succeeded_per_s": round(len(good) / took_s, 1) if took_s else 0.0,
        "seconds": round(took_s, 3),
        "sent_late": sum(lag > LATE_S for lag in lags),
        "schedule_lag_p99_ms": _milliseconds(percentile(lags, 0.99)),
    }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest rank: always a value that was really seen."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _counts(values: Iterable[object]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values if value is not None).items()))
