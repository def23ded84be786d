"""docs/metrics.md says what the programs tell, no more and no less."""

import os
import re
import runpy
from pathlib import Path

from bedplate.bundle.bundle import Bundle
from bedplate.engine.catalogue import Catalogue
from bedplate.engine.metrics import EngineMetrics
from bedplate.gpu_metrics.gpus import Gpus
from bedplate.gpu_metrics.nvml import Nvml
from bedplate.metrics.units import Units
from bedplate.telemetry.exposition import new_registry
from bedplate.web.metrics import WebMetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.service.engine_tools import GatedLamp
from tests.service.lamp import description
from tests.service.nvml_tools import UUIDS, _loaded, nvml_library, stub

__all__ = ["_loaded", "nvml_library", "stub"]  # fixtures

PROJECT = Path(__file__).parents[2]
DOCUMENT = PROJECT / "docs/metrics.md"
MTAIL = PROJECT / "templates/etc/mtail/requests.mtail.j2"
DECLARED = re.compile(r"^(counter|histogram) (\w+) by (.+?)(?: buckets .*)?$", re.MULTILINE)
BACKUP = PROJECT / "roles/backup/files/bedplate_backup.py"
STORE = PROJECT / "roles/backup/files/bedplate_store.py"
ROW = re.compile(r"^\| `((?:bedplate|process)_\w+)`(?: ([hs]))? \|([^|]*)\|", re.MULTILINE)
KINDS = {"h": "histogram", "s": "summary", "": None}
PROGRAM_LABELS = {"le"}  # of every histogram


def documented():
    return {
        (name, KINDS[kind], frozenset(labels.replace(",", " ").split()))
        for name, kind, labels in ROW.findall(DOCUMENT.read_text())
    }


def held(collectors):
    found = set()
    for collector in collectors:
        for family in collector.collect():
            labels = frozenset(name for sample in family.samples for name in sample.labels) - PROGRAM_LABELS
            name = family.name + ("_total" if family.type == "counter" else "")
            found.add((name, family.type if family.type in KINDS.values() else None, labels))
    return found


def busy_web():
    """A web that has counted in everything it can count in."""
    lamp = Bundle.from_description(description())
    metrics = WebMetrics()
    metrics.request("predict", 200, 0.01)
    metrics.prediction(lamp, ["dark"], 0.01, dict.fromkeys(["queue", "decode", "batch", "compute"], 1000))
    metrics.failed(lamp, 0.01)
    metrics.cache_lookup("miss")
    metrics.cache_error("timeout")
    metrics.cache_available(lambda: 1)
    return metrics.registry


def busy_engine():
    lamp = GatedLamp()
    metrics = EngineMetrics()
    metrics.serves(Catalogue([lamp]), lambda key: {})
    metrics.queue(lambda: 0, 64)
    metrics.batch_computed(lamp, 3)
    metrics.batch_failed(lamp)
    return metrics.registry


class OwnOnly(Units):
    """What the metrics program adds; what it passes on is held by the others."""

    def collect(self):
        return [family for family in super().collect() if not family.name.startswith("process_")]


class Backup:
    """What bedplate-backup leaves for the node exporter after a backup that succeeded."""

    def __init__(self, folder):
        program = runpy.run_path(str(BACKUP))
        state = program["State"](folder)
        state.write("backup", {"ok": True, "success": 1.0, "duration": 2.0, "bytes": 3, "files": 4})
        program["tell"](state, folder)
        self.text = (folder / "bedplate_backup.prom").read_text()

    def collect(self):
        return text_string_to_metric_families(self.text)


class Store:
    """What bedplate-store leaves for the node exporter on the backup store."""

    def __init__(self):
        program = runpy.run_path(str(STORE))
        host = program["Host"]("gpu1", "backup-gpu1", Path("/"), program["Quota"](1, 1), program["Usage"](), 0.0, 0.0)
        self.text = program["metrics"]([host], "", os.statvfs("/"))

    def collect(self):
        return text_string_to_metric_families(self.text)


def counted():
    """What mtail is told to count."""
    return {
        (name, KINDS["h"] if kind == "histogram" else None, frozenset(labels.split(", ")))
        for kind, name, labels in DECLARED.findall(MTAIL.read_text())
    }


def test_the_tables_are_what_the_programs_tell(tmp_path, stub):
    nvml = Nvml(UUIDS)
    gpus = Gpus(UUIDS, nvml.sample, nvml.xids)
    metrics = OwnOnly([Path("/run/web@1.sock")], lambda _: {}, new_registry())

    assert documented() == held([busy_web(), busy_engine(), gpus, metrics, Backup(tmp_path), Store()]) | counted()
