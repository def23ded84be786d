"""A prediction without HTTP: a request that came whole, the call that is prepared of it, and the reply.

Falcon's route and the direct way (docs/adr/0014) turn HTTP into this and back, and nothing else. So what holds for a
request is said once, in the handler of its API.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from bedplate.bundle.bundle import Bundle
from bedplate.web.engines.connection import Waiting
from bedplate.web.engines.pool import EnginePool
from bedplate.web.observer import Observation
from bedplate.web.options import Header, RequestOptions
from bedplate.web.versions import at_its_version
from bedplate.wire import Frame

_PATH = re.compile(r"/(v1|v2)/models/([^/]+)(?:/versions/([^/]+))?/(predict|infer)")


class Target(NamedTuple):
    """What the path of a request for a prediction names."""

    route: str  # predict or infer
    name: str
    version: str | None  # or alias; None: the model's default


@lru_cache(maxsize=256)
def target_of(path: str) -> Target | None:
    """None for the path of anything else."""
    found = _PATH.fullmatch(path)
    if found is None or (found[1], found[4]) not in (("v1", "predict"), ("v2", "infer")):
        return None
    return Target(found[4], found[2], found[3])


@dataclass(slots=True)
class Asked:
    """What a client asks: its body is whole and decompressed, and it has passed every check.

    Attributes:
        seen: what its handling finds out is written here.
    """

    target: Target
    header: Header
    body: bytes
    options: RequestOptions
    started_ns: int
    seen: Observation


@dataclass(slots=True)
class Reply:
    """Of status 200."""

    body: bytes
    content_type: str
    fields: Mapping[str, str]  # besides
    may_be_compressed: bool


class Call(Protocol):
    """What is left to do for one request to one version of a model.

    `answer` does all of it. Who wants no task asks for `known` first, then lets it `begin`, and gives what an engine
    says to `render`; what is no RESULT goes to `answer`, which makes the best of it.
    """

    def known(self) -> Reply | None:
        """A reply for which nobody has to be asked."""

    def begin(self, waiting: Waiting) -> bool:
        """Ask an engine without a wait; `waiting` is told what it says.

        Returns: False if that cannot be, and nothing has happened.

        Raises:
            ServiceError: the request is wrong; nothing has happened.
        """

    def render(self, frame: Frame) -> Reply:
        """Raises: ServiceError: there is no reply of this RESULT."""

    def leave(self) -> None:
        """After `begin`: the client is gone."""

    async def answer(self, came: Frame | Exception | None = None) -> Reply:
        """
        Args:
            came: what came of `begin`, where that was called.

        Raises:
            ServiceError: see errors.py.
        """


class Handler(ABC):
    """One API's way to predict.

    Args:
        on_stale: told that a version was gone by the time its engine was asked, and that another is asked instead.
    """

    takes: str  # told to who sends nothing

    def __init__(self, engines: EnginePool, on_stale: Callable[[], None] = lambda: None):
        self._engines = engines
        self._on_stale = on_stale

    @abstractmethod
    def prepare(self, asked: Asked, model: Bundle) -> Call:
        """Raises: ServiceError: the request is wrong."""

    def answer(self, asked: Asked, call: Call, came: Frame | Exception | None = None) -> Awaitable[Reply]:
        """As `call`'s; of a version that is gone by then, its successor's, within what is left of the client's time."""

        async def again(model: Bundle) -> Reply:
            return await self.prepare(asked, model).answer()

        _, name, version = asked.target
        first = call.answer(came)
        return at_its_version(self._engines, asked.seen, name, version, first, again, self._on_stale)
