"""Retries a request whose version vanished on the way, because an alias or a model's default changed meanwhile."""

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
    """Return what `first` returns for `seen.model`, or if that version is gone, what `again` returns for its successor.

    Args:
        wanted: the version or alias that the client named; None: the default.
        on_stale: called when `again` is.

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
