"""What an alias, or a model's default, means may change while a request for it is under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from bedplate.bundle.bundle import Bundle
from bedplate.errors import UnknownModel
from bedplate.web.engines.pool import EnginePool
from bedplate.web.observer import Observation

T = TypeVar("T")


async def at_its_version(
    engines: EnginePool,
    seen: Observation,
    name: str,
    wanted: str | None,
    first: Awaitable[T],
    again: Callable[[Bundle], Awaitable[T]],
    on_stale: Callable[[], None],
) -> T:
    """What `first` gives, asked of `seen.model`; if that version is gone by then, what `again` gives of its successor.

    Args:
        wanted: the version or alias that the client named; None for the default.
        on_stale: told that `again` is asked.

    Raises:
        UnknownModel: the client named this very version, or the successor is gone, too.
        ServiceError: what `first` or `again` raised.
    """
    assert seen.model is not None
    try:
        return await first
    except UnknownModel:
        if wanted == seen.model.version:
            raise
        seen.model = await engines.model(name, wanted)
        on_stale()
        return await again(seen.model)
