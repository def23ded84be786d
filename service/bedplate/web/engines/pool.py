"""The engines of this host. A request goes to the engine with the fewest requests in flight.

It is sent twice at most: once more, to another engine if there is one, when the first engine is lost, stops, is busy,
or no longer has the version that it described. An engine that was lost before it began does not count. A request that
was being computed when an engine ended may be the reason: the second engine computes it alone, and if that one ends
too, no other engine gets it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bedplate import errors
from bedplate.bundle.bundle import Bundle
from bedplate.errors import Draining, EngineBusy, EnginesLost, EngineUnavailable, UnknownModel
from bedplate.process.instance import by_preference
from bedplate.web.engines.client import Engine
from bedplate.web.engines.coalesce import MAX_BYTES, Group, Member, Pace
from bedplate.web.engines.connection import EngineLink, EngineLost, Waiting
from bedplate.web.engines.served import Served, find, together
from bedplate.web.options import RequestOptions, too_late
from bedplate.wire import INTERACTIVE, PROBE, FixedMeta, Frame, Type

_log = logging.getLogger("bedplate.web.engines")

# Long enough for systemd to start the engine again and for torch to load.
RETRY_AFTER_S = 5
_TRIES = 2
# Engines that may end over one request. One is no verdict: another request in its batch may have ended it, or a person.
_MAX_LOST = 2
# Names and versions that are remembered: strangers may ask for any.
_MAX_FOUND = 256


class EnginePool:
    """All engines of the host.

    Args:
        on_retry: called with the reason of each second attempt: lost, draining, busy, stale.
        instance: the number of this front end, which decides between equally busy engines.
    """

    def __init__(
        self, sockets: Sequence[Path], on_retry: Callable[[str], None] = lambda reason: None, instance: int = 1
    ):
        self.engines = [Engine(socket) for socket in sockets]
        self._by_preference = by_preference(self.engines, instance)
        self._on_retry = on_retry
        self._pace = Pace()
        self._open: dict[tuple[int, int, int], Group] = {}  # by link, metadata and priority
        self._connected: list[Served] = []  # what the connected engines said, and what was found in it
        self._found: dict[tuple[str, str | None], Bundle | None] = {}

    async def served(self) -> Served:
        """What all engines together serve; for engines that are away, their last description.

        Raises:
            EngineUnavailable: no engine has ever described itself.
        """
        if attempts := [attempt for engine in self.engines if (attempt := engine.connecting())]:
            await asyncio.wait(attempts)
        known = together(engine.served for engine in self.engines)
        if not known.bundles:
            raise _unavailable()
        return known

    async def models(self) -> dict[str, Bundle]:
        """Return the default version of each name.

        Raises:
            EngineUnavailable: no engine has ever described itself.
        """
        names = (await self.served()).names
        found = {name: find(self._said(), name, None) for name in names}
        return {name: bundle for name, bundle in found.items() if bundle}

    async def model(self, name: str, wanted: str | None = None) -> Bundle:
        """Return the bundle that `wanted` names: a version, else an alias; None: the default.

        Raises:
            UnknownModel, EngineUnavailable.
        """
        if bundle := self.connected_model(name, wanted):
            return bundle
        await self.served()
        if bundle := find(self._said(), name, wanted):
            return bundle
        raise UnknownModel(
            "no model of this name, version or alias is served here",
            next_step="GET /v1/models lists what there is",
        )

    def is_connected(self, model: Bundle) -> bool:
        """Whether an engine that serves this version is connected right now."""
        return any(engine.serves((model.name, model.version)) for engine in self.engines)

    def connected_model(self, name: str, wanted: str | None) -> Bundle | None:
        """Do what `model` does, for engines that are connected right now; None if the answer needs a wait."""
        connected = [engine.served for engine in self.engines if engine.connected]
        if connected != self._connected or len(self._found) >= _MAX_FOUND:
            self._connected, self._found = connected, {}
        key = name, wanted
        if key not in self._found:
            self._found[key] = find(connected, name, wanted)
        return self._found[key]

    def _said(self) -> list[Served]:
        return [engine.served for engine in self.engines]

    def begin(
        self, meta: FixedMeta, tensors: bytes | memoryview, options: RequestOptions, waiting: Waiting
    ) -> tuple[Engine, Member] | None:
        """Send without waiting, if all engines are connected and one accepts; return which one, and how to give up.

        `waiting` gets the link's result, right or wrong, from which `predict` can continue. None if this needs a wait,
        or no engine is there.
        """
        version = (meta["model"], meta["version"])
        links = [(engine, engine.link) for engine in self._by_preference if engine.link and not engine.link.lost]
        if len(links) < len(self.engines):
            return None
        free = [pair for pair in links if not pair[1].congested and version in pair[0].served.bundles]
        if not free:
            return None
        engine, link = _least(free)
        member = Member(link, meta, tensors, options, waiting, self._pace)
        if len(tensors) <= MAX_BYTES and self._pace.is_quick(version):
            self._join(engine, link, meta, member, options)
            return engine, member
        try:
            member.ask_alone()
        except (EngineLost, asyncio.TimeoutError):
            return None
        return engine, member

    def _join(self, engine: Engine, link: EngineLink, meta: FixedMeta, member: Member, options: RequestOptions) -> None:
        key = (id(link), id(meta), options.priority)
        group = self._open.get(key)
        if group is None or not group.takes(options):
            bundle = engine.served.bundles[meta["model"], meta["version"]]
            items, *shape = meta["inputs"][0]["shape"]
            most = bundle.input.most_items(shape, bundle.max_items, bundle.max_cost) // items
            group = self._open[key] = Group(link, meta, options, most, lambda sent: self._close(key, sent))
            link.loop.call_soon(group.send)
        group.add(member, options)

    def _close(self, key: tuple[int, int, int], sent: Group) -> None:
        if self._open.get(key) is sent:
            del self._open[key]

    async def predict(
        self,
        meta: dict[str, Any],
        tensors: bytes | memoryview,
        options: RequestOptions,
        begun: tuple[Engine, Frame | Exception] | None = None,
    ) -> Frame:
        """Send one PREDICT frame and return its RESULT frame.

        Args:
            begun: the engine that `begin` chose, and the result: it counts as the first attempt.

        Raises:
            ServiceError: the engine's answer, DeadlineExceeded, EnginesLost, or EngineUnavailable if no engine is left.
        """
        version = (meta["model"], meta["version"])
        tried: set[Path] = set()
        reason = ""
        busy: EngineBusy | None = None
        lost_over_it = 0  # engines
        tries_left = _TRIES
        while tries_left:
            tries_left -= 1
            try:
                if begun is None:
                    return await self._attempt(version, meta, tensors, options, tried, reason, lost_over_it > 0)
                (engine, came), begun = begun, None
                tried.add(engine.socket)
                return await self._judged(engine, came, options)
            except EngineLost as lost:
                reason = "lost"
                lost_over_it += lost.begun
                if lost_over_it == _MAX_LOST:
                    raise _lost_over(version, tried) from None
                if not lost.begun and self._is_served_elsewhere(version, tried):
                    # It only waited there. No engine is asked so more than once.
                    tries_left = max(tries_left, 1)
            except Draining:
                reason = "draining"
            except UnknownModel:
                if not (tries_left and self._is_served_elsewhere(version, tried)):
                    raise
                reason = "stale"
            except EngineBusy as error:
                busy = _sooner(busy, error)
                if not self._is_served_elsewhere(version, tried):
                    break
                reason = "busy"
            except asyncio.TimeoutError:
                raise too_late() from None
        raise busy or _unavailable()

    async def _attempt(
        self,
        version: tuple[str, str],
        meta: dict[str, Any],
        tensors: bytes | memoryview,
        options: RequestOptions,
        tried: set[Path],
        reason: str,
        alone: bool,
    ) -> Frame:
        engine, link = await self._least_busy(version, tried, options)
        if reason:
            self._on_retry(reason)
        tried.add(engine.socket)
        if options.priority == PROBE and not engine.served.knows_probes:
            options = replace(options, priority=INTERACTIVE)
        if alone and engine.served.knows_alone:
            return await self._judged(engine, await link.ask_alone(meta, tensors, options), options)
        return await self._judged(engine, await link.ask(Type.PREDICT, meta, tensors, options), options)

    async def _judged(self, engine: Engine, came: Frame | Exception, options: RequestOptions) -> Frame:
        """A RESULT; whatever else came is raised."""
        if isinstance(came, Exception):
            raise came
        if came.type is Type.RESULT:
            return came
        error = errors.from_meta(came.meta)
        if isinstance(error, UnknownModel):
            # Unloaded since it was described. Whoever asks again now is to know better.
            await engine.describe(options)
        raise error

    async def _least_busy(
        self, version: tuple[str, str], tried: set[Path], options: RequestOptions
    ) -> tuple[Engine, EngineLink]:
        """The best engine that serves `version`; one that just failed comes last, for it may be back.

        Raises:
            EngineLost: there is none.
            EngineBusy: there is, but it does not even take what it was sent.
            asyncio.TimeoutError: the deadline passed while engines were connecting.
        """
        while True:
            attempts = [attempt for engine in self.engines if (attempt := engine.connecting())]
            serving = [engine for engine in self._by_preference if engine.serves(version)]
            fresh = [engine for engine in serving if engine.socket not in tried]
            if fresh or (serving and not attempts):
                return _choose(fresh or serving)
            if not attempts:
                raise EngineLost
            timeout_s = max(0, options.left_s)
            done, _ = await asyncio.wait(attempts, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise asyncio.TimeoutError

    def _is_served_elsewhere(self, version: tuple[str, str], tried: set[Path]) -> bool:
        """Now, and by an engine that gives signs of life: a refusal in time beats a silence."""
        return any(
            engine.serves(version) and not engine.silent and engine.socket not in tried for engine in self.engines
        )

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


def _choose(engines: list[Engine]) -> tuple[Engine, EngineLink]:
    links = [(engine, engine.link) for engine in engines if engine.link is not None and not engine.link.congested]
    if not links:
        raise EngineBusy("the engine does not take what it was sent", next_step="try again", retry_after_s=1)
    return _least(links)


def _least(links: list[tuple[Engine, EngineLink]]) -> tuple[Engine, EngineLink]:
    if len(links) == 1:
        return links[0]
    return min(links, key=lambda pair: (pair[1].silent, len(pair[1].outstanding)))


def _sooner(one: EngineBusy | None, other: EngineBusy) -> EngineBusy:
    """Of two refusals the one that may be asked again first."""
    if one is None:
        return other
    return min(one, other, key=lambda refusal: refusal.retry_after_s or 1)


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable("no engine can answer right now", next_step="try again", retry_after_s=RETRY_AFTER_S)


def _lost_over(version: tuple[str, str], tried: set[Path]) -> EnginesLost:
    engines = sorted(socket.stem for socket in tried)
    told = {"model": version[0], "version": version[1], "engines": engines}
    _log.error("engines were lost while they computed one request", extra=told)
    return EnginesLost(
        f"{_MAX_LOST} engines ended while each computed this request",
        value=_MAX_LOST,
        limit=_MAX_LOST,
        next_step="do not send it again unchanged; the operator finds why in the journals of the engines",
    )
