"""TorchServe's handler, which its workers load from the archive."""

from typing import Any

from benchmarks.peers import serving

_predict: serving.Predict | None = None


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[Any] | None:
    """A batch of bodies → a batch of answers; called once with None to load."""
    global _predict  # noqa: PLW0603  # as TorchServe wants it of a function
    if _predict is None:
        _predict = serving.load()
    if data is None:
        return None
    bodies = [row.get("body", row.get("data")) for row in data]
    # TorchServe has parsed what came as application/json.
    items = [serving.decode_document(body) if isinstance(body, dict) else serving.decode(body) for body in bodies]
    return [serving.encode(row) for row in _predict(serving.stacked(items))]
