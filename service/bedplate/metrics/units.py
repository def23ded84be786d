"""Merges the metrics of all units of the host: each series gets the label `unit`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bedplate import __version__

_log = logging.getLogger(__name__)
# What only this program says; a unit that says it is not believed.
_OURS = frozenset({"bedplate_unit_up", "bedplate_build_info"})
# And what a unit may say at all: another name could be taken for a host's or for Redis's.
_PREFIXES = ("bedplate_", "process_")
_OWN_UNIT = "metrics"


class Units(Collector):
    """Reads the units at each collection.

    Args:
        sockets: of the units that are expected; web@1.sock is unit web@1.
        read: returns the text of those that answered.
        own: this program's own metrics, exported as unit `metrics`.
    """

    def __init__(
        self,
        sockets: Sequence[Path],
        read: Callable[[Sequence[Path]], Mapping[Path, str]],
        own: CollectorRegistry,
    ):
        self._sockets = sockets
        self._read = read
        self._own = own
        self._were_up: dict[str, bool] = {}

    def collect(self) -> Iterable[Metric]:
        told = self._read(self._sockets)
        families: dict[str, Metric] = {}
        up = GaugeMetricFamily("bedplate_unit_up", "1 for a unit that answered, 0 for another", labels=["unit"])
        for socket in self._sockets:
            unit = socket.stem
            is_up = socket in told and _add(families, unit, told[socket])
            up.add_metric([unit], float(is_up))
            self._log_change(unit, is_up)
        _merge(families, _OWN_UNIT, self._own.collect())
        build = GaugeMetricFamily("bedplate_build_info", "1, and the version of this release", labels=["version"])
        build.add_metric([__version__], 1)
        return [up, build, *(families[name] for name in sorted(families))]

    def _log_change(self, unit: str, is_up: bool) -> None:
        if self._were_up.get(unit, True) != is_up:
            _log.log(logging.INFO if is_up else logging.WARNING, "unit %s is %s", unit, "up" if is_up else "down")
        self._were_up[unit] = is_up


def _add(families: dict[str, Metric], unit: str, text: str) -> bool:
    try:
        parsed = list(text_string_to_metric_families(text))
    except Exception as error:
        # The parser promises nothing about what it raises, and one unit's rubbish must not cost the others.
        _log.warning("unit %s told what cannot be read: %s", unit, type(error).__name__)
        return False
    _merge(families, unit, parsed)
    return True


def _merge(families: dict[str, Metric], unit: str, told: Iterable[Metric]) -> None:
    for family in told:
        # When series began is left out here too, should a unit of another release say it.
        if family.name in _OURS or family.name.endswith("_created") or not family.name.startswith(_PREFIXES):
            continue
        merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            merged.add_sample(sample.name, {**sample.labels, "unit": unit}, sample.value)
