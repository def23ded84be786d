"""Sends small requests for one model that arrive in the same turn of the event loop as one.

If a model computes an item faster than an engine handles a frame, one frame for each request costs more than all
else. A group gets one answer. If it gets an error, that says nothing about a single request, so each is sent alone:
one bad item fails alone, and a full engine refuses as it would have done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson

from bedplate.web.engines.connection import EngineLink, EngineLost, Waiting
from bedplate.web.options import RequestOptions
from bedplate.wire import FixedMeta, Frame, Type

# A larger tensor costs enough to be worth a frame of its own.
MAX_BYTES = 16 << 10
# Items that take longer are worth a frame of their own.
_MAX_ITEM_NS = 100_000
# What one is given less time than another for being asked together.
_SAME_DEADLINE_NS = 5_000_000


class Pace:
    """How long an item of each version takes, by the engines' last answers."""

    def __init__(self) -> None:
        self._item_ns: dict[tuple[str, str], float] = {}

    def learn(self, version: tuple[str, str], answer: Frame) -> None:
        self._item_ns[version] = answer.meta["compute_ns"] / answer.meta["batch_items"]

    def is_quick(self, version: tuple[str, str]) -> bool:
        return self._item_ns.get(version, _MAX_ITEM_NS) < _MAX_ITEM_NS


class Member:
    """One request of a group: it waits for its part of the group's answer, or for an answer of its own."""

    __slots__ = ("_alone", "_link", "_meta", "_options", "_pace", "_waiting", "group", "tensors")

    def __init__(
        self,
        link: EngineLink,
        meta: FixedMeta,
        tensors: bytes | memoryview,
        options: RequestOptions,
        waiting: Waiting,
        pace: Pace,
    ):
        self._link = link
        self._meta = meta
        self.tensors = tensors
        self._options = options
        self._waiting = waiting
        self._pace = pace
        self.group: Group | None = None
        self._alone: int | None = None  # what the link calls it, if it was asked for itself

    def done(self) -> bool:
        return self._waiting.done()

    def set_result(self, answer: Frame, /) -> None:
        if answer.type is Type.RESULT:
            self.learn(answer)
        self._waiting.set_result(answer)

    def learn(self, answer: Frame) -> None:
        self._pace.learn((self._meta["model"], self._meta["version"]), answer)

    def take_part(self, answer: Frame) -> None:
        """Take this request's part of the group's answer."""
        self._waiting.set_result(answer)

    def set_exception(self, error: Exception, /) -> None:
        self._waiting.set_exception(error)

    def ask_alone(self) -> None:
        """Send this request alone.

        Raises:
            EngineLost, asyncio.TimeoutError: it is too late.
        """
        self._alone = self._link.begin(Type.PREDICT, self._meta, self.tensors, self._options, self)

    def hand_to(self, waiting: Waiting) -> None:
        """Somebody else waits for it from now on."""
        self._waiting = waiting

    def give_up(self) -> None:
        """Leave the group: nobody waits for the answer any more."""
        if self._alone is not None:
            self._link.give_up(self._alone)
        elif self.group is not None:
            self.group.leave()


class Group:
    """Requests may join until the turn of the event loop ends; then they are sent as one frame.

    Args:
        meta: of each of them.
        most: items that an engine takes at once.
        on_sent: called when no more may join.
    """

    def __init__(
        self, link: EngineLink, meta: FixedMeta, options: RequestOptions, most: int, on_sent: Callable[[Group], None]
    ):
        self._link = link
        self._meta = meta
        self._options = options
        self._most = most
        self._on_sent = on_sent
        self._members: list[Member] = []
        self._request_id: int | None = None
        self._is_done = False

    def takes(self, options: RequestOptions) -> bool:
        apart_ns = abs(options.engine_deadline_ns - self._options.engine_deadline_ns)
        return len(self._members) < self._most and apart_ns <= _SAME_DEADLINE_NS

    def add(self, member: Member, options: RequestOptions) -> None:
        member.group = self
        self._members.append(member)
        if options.engine_deadline_ns < self._options.engine_deadline_ns:
            self._options = options

    def send(self) -> None:
        self._on_sent(self)
        self._members = [member for member in self._members if not member.done()]
        if len(self._members) < 2 or not self._ask_all():
            self._ask_each()
        self._link.flush()

    def _ask_all(self) -> bool:
        """False if the link takes no common question, or it is too late for one: then each has its own chance."""
        meta = _several(self._meta.encoded, len(self._members))
        tensors = b"".join(member.tensors for member in self._members)
        try:
            self._request_id = self._link.begin(Type.PREDICT, meta, tensors, self._options, self)
        except (EngineLost, asyncio.TimeoutError):
            return False
        return True

    def leave(self) -> None:
        """Remove one request; with the last one, the engine may drop the frame."""
        if self._request_id is not None and all(member.done() for member in self._members):
            self._is_done = True
            self._link.give_up(self._request_id)

    def done(self) -> bool:
        return self._is_done

    def set_result(self, answer: Frame, /) -> None:
        if answer.type is not Type.RESULT:
            self._is_done = True
            self._ask_each()
            return
        # Whatever can be wrong with an answer shows here, while all of them can still be told.
        self._members[0].learn(answer)
        parts = len(self._members)
        output = answer.meta["outputs"][0]
        size = len(answer.tensors) // parts
        shape = [output["shape"][0] // parts, *output["shape"][1:]]
        meta = {**answer.meta, "outputs": [{**output, "shape": shape}]}
        self._is_done = True
        for number, member in enumerate(self._dissolve()):
            if not member.done():
                tensors = answer.tensors[number * size : (number + 1) * size]
                member.take_part(Frame(Type.RESULT, answer.id, meta, tensors))

    def set_exception(self, error: Exception, /) -> None:
        self._is_done = True
        for member in self._dissolve():
            if not member.done():
                member.set_exception(error)

    def _dissolve(self) -> list[Member]:
        """Its members, which hold this group: a cycle would wait for the collector."""
        members, self._members = self._members, []
        return members

    def _ask_each(self) -> None:
        for member in self._dissolve():
            if member.done():
                continue
            try:
                member.ask_alone()
            except (EngineLost, asyncio.TimeoutError) as error:
                member.set_exception(error)


@lru_cache(maxsize=1024)
def _several(encoded: bytes, count: int) -> FixedMeta:
    """The metadata of so many equal questions."""
    meta: dict[str, Any] = orjson.loads(encoded)
    meta["inputs"][0]["shape"][0] *= count
    return FixedMeta(meta)
