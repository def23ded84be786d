"""Who is asked in an open loop, and how much: ours and the best peers, by what they did in this very run."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers import cases, offered
from benchmarks.peers.cases import WrongAnswer
from benchmarks.peers.figures import spread
from benchmarks.peers.peer import Peer, Setup, free_port
from benchmarks.peers.results import Measured, Offered
from benchmarks.peers.run import Order, Outcome

MODEL = "transformer"
CLIENTS = 16
OURS = "bedplate"


def run(order: Order, outcome: Outcome, best: int, seconds: float) -> list[Offered]:
    """Failures are added to the outcome's."""
    levels: list[Offered] = []
    case = cases.load(MODEL)
    for peer, setup, capacity_per_s in chosen(order.peers, outcome.measured, best):
        try:
            measured = offered.measure(peer, setup, case, capacity_per_s, seconds, free_port(*order.ports))
        except (WrongAnswer, TimeoutError, OSError) as error:
            outcome.failures.append(f"{peer.label(setup)}, goodput: {error}")
            print(f"FAILED {outcome.failures[-1]}", flush=True)
            continue
        levels += measured
        shown = "  ".join(f"{level.share:g}x: {level.good_per_s:.0f}/s" for level in measured)
        print(f"goodput {peer.label(setup):32} of {capacity_per_s:.0f}/s: {shown}", flush=True)
    return levels


def chosen(peers: Sequence[Peer], measured: Sequence[Measured], best: int) -> list[tuple[Peer, Setup, float]]:
    """Ours first, then the peers with the highest capacity."""
    found = []
    for peer in peers:
        for setup in peer.setups[MODEL]:
            rates = [
                run.per_s
                for run in measured
                if (run.label, run.model, run.clients) == (peer.label(setup), MODEL, CLIENTS)
            ]
            if rates:
                found.append((peer, setup, spread(rates).median))
    found.sort(key=lambda candidate: -candidate[2])
    ours = [candidate for candidate in found if candidate[0].name == OURS]
    return ours + [candidate for candidate in found if candidate[0].name != OURS][:best]
