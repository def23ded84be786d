"""The three servers: asked for the whole validation set first, then loaded in turn, round by round."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.peers import checking
from benchmarks.peers.bedplate import PEER, served
from benchmarks.peers.cases import Array, Case
from benchmarks.peers.peer import Peer, Setup, free_port
from benchmarks.peers.results import Measured
from benchmarks.peers.visit import Times, visit

CLIENTS = 16
PORTS = (18400, 18499)
AS_BUNDLES_SAY, OPTIMIZED = "Bedplate, as bundles say", "Bedplate, optimized"
# What fewer bits may change of the largest logit; whether answers keep their class is measured apart.
_ROUNDED = 0.2


class Rounded(Case):
    """A case whose answers may come from fewer bits."""

    @functools.cached_property
    def tolerance(self) -> float:
        return _ROUNDED * float(np.abs(self.expected).max())


@dataclass(frozen=True)
class Side:
    peer: Peer
    case: Case

    @property
    def setup(self) -> Setup:
        return next(one for one in self.peer.setups[self.case.model.name] if one.counts([CLIENTS], False))

    @property
    def label(self) -> str:
        return self.peer.label(self.setup)

    def accuracy(self, classes: Array) -> float:
        """Over HTTP, as many at once as under load."""
        with self.peer.running(self.setup, self.case, free_port(*PORTS)) as server, ThreadPoolExecutor(CLIENTS) as some:
            ask = functools.partial(
                checking.answer_to, case=self.case, dialect=server.dialect, port=server.port, path=server.path
            )
            answers = np.stack(list(some.map(ask, range(len(classes)))))
        return float((answers.argmax(axis=1) == classes).mean())

    def measured(self, turn: int, seconds: float) -> Measured:
        """Right answers before and after."""
        [run] = visit(self.peer, self.setup, self.case, turn, [CLIENTS], Times(seconds, 2), free_port(*PORTS))
        return run


def sides_of(case: Case, peer: Peer, bundle: Path, shelf: Path) -> list[Side]:
    rounded = Rounded(case.model, case.inputs, case.expected, case.label_of_ones, case.folder)
    return [
        Side(peer, case),
        Side(_ours(AS_BUNDLES_SAY, bundle), case),
        Side(_ours(OPTIMIZED, bundle, prepared_dir=str(shelf)), rounded),
    ]


def _ours(title: str, bundle: Path, **engine_settings: str) -> Peer:
    return replace(
        PEER,
        title=title,
        start=lambda setup, case, port, deadline_ms: served(bundle, setup, case, port, deadline_ms, **engine_settings),
    )


def rounds(sides: Sequence[Side], count: int, seconds: float) -> Iterator[Measured]:
    for turn in range(count):
        # Each round begins with another: whoever follows a hot one follows it once.
        start = turn % len(sides)
        for side in [*sides[start:], *sides[:start]]:
            run = side.measured(turn, seconds)
            print(f"{run.model} {turn + 1} {run.label:32} {run.per_s:8.1f}/s", flush=True)
            yield run
