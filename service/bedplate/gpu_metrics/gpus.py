"""The metrics of all GPUs: gpu0 is the first that the host has to have, as its engine is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from bedplate.gpu_metrics.figures import FIGURES, Figure
from bedplate.gpu_metrics.nvml import Sample, Xids


class Gpus(Collector):
    """Exports for each GPU its metrics, or that it is down."""

    def __init__(self, uuids: Sequence[str], latest: Callable[[], Sequence[Sample | None]], xids: Mapping[str, Xids]):
        self._uuids = uuids
        self._latest = latest
        self._xids = xids

    def collect(self) -> Iterable[Metric]:
        samples = {f"gpu{number}": sample for number, sample in enumerate(self._latest())}
        up = GaugeMetricFamily("bedplate_gpu_up", "1 for a GPU that answered", labels=["gpu"])
        info = GaugeMetricFamily("bedplate_gpu_info", "1, and which", labels=["gpu", "uuid", "name", "driver"])
        for uuid, (gpu, sample) in zip(self._uuids, samples.items(), strict=True):
            up.add_metric([gpu], float(sample is not None))
            if sample:
                info.add_metric([gpu, uuid, sample.name, sample.driver], 1)
        return [up, info, *(_family(figure, samples) for figure in FIGURES), *self._errors()]

    def _errors(self) -> Iterable[Metric]:
        count = CounterMetricFamily("bedplate_gpu_xid_errors", "Errors that the driver reported", labels=["gpu"])
        last = GaugeMetricFamily("bedplate_gpu_xid", "Code of the last of them, 0 for none", labels=["gpu"])
        for number, uuid in enumerate(self._uuids):
            count.add_metric([f"gpu{number}"], self._xids[uuid].count)
            last.add_metric([f"gpu{number}"], self._xids[uuid].last)
        return [count, last]


def _family(figure: Figure, samples: Mapping[str, Sample | None]) -> Metric:
    kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
    family = kind(f"bedplate_gpu_{figure.name}", figure.words, labels=["gpu", *figure.labels])
    for gpu, sample in samples.items():
        for labels, value in sample.figures.get(figure.name, ()) if sample else ():
            family.add_metric([gpu, *labels], value)
    return family
