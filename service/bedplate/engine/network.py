"""Networks as data: a chain of torch.nn layers from an allow-list, and no code.

A layer's options carry torch's own names; each is checked for type and range before torch sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle, Layer
from bedplate.bundle.strict_yaml import BundleError

_MAX_SIZE = 65536  # channels, features, pixels: beyond it a bundle is wrong rather than large
_MAX_IDS = 1 << 24  # words, users, items of an embedding


@dataclass(frozen=True)
class _Kind:
    wanted: str
    fits: Callable[[Any], bool]


def _is_whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= _MAX_SIZE


def _is_one_or_two(value: object, low: int) -> bool:
    values = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(_is_whole(item, low) for item in values)


def _is_between(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


_SIZE = _Kind(f"a whole number from 1 to {_MAX_SIZE}", lambda value: _is_whole(value, 1))
_SIZES = _Kind(f"one or two whole numbers from 1 to {_MAX_SIZE}", lambda value: _is_one_or_two(value, 1))
_MARGINS = _Kind(f"one or two whole numbers from 0 to {_MAX_SIZE}", lambda value: _is_one_or_two(value, 0))
_SHAPE = _Kind(
    "a list of whole numbers", lambda value: isinstance(value, list) and all(_is_whole(item, 1) for item in value)
)
_DIMENSION = _Kind("a dimension from 1 to 8", lambda value: _is_whole(value, 1) and value <= 8)
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_SHARE = _Kind("a number from 0 to 1", lambda value: _is_between(value, 0, 1))
_EPSILON = _Kind("a number from 1e-12 to 1", lambda value: _is_between(value, 1e-12, 1))
_COUNT = _Kind(f"a whole number from 1 to {_MAX_IDS}", lambda value: type(value) is int and 1 <= value <= _MAX_IDS)
_DTYPE = _Kind(" or ".join(dtypes.HOLDERS), lambda value: isinstance(value, str) and value in dtypes.HOLDERS)
_RATE = _Kind("a whole number from 1 to 384000", lambda value: type(value) is int and 1 <= value <= 384_000)
_ACTIVATION = _Kind("relu or gelu", lambda value: value in ("relu", "gelu"))
_GELU = _Kind("none or tanh", lambda value: value in ("none", "tanh"))

_CONV = {"in_channels": _SIZE, "out_channels": _SIZE, "kernel_size": _SIZES, "stride": _SIZES, "padding": _MARGINS}
_POOL = {"kernel_size": _SIZES, "stride": _SIZES, "padding": _MARGINS, "ceil_mode": _FLAG}


_MEL = {"sample_rate": _RATE, "n_fft": _SIZE, "hop_length": _SIZE, "n_mels": _SIZE}
_QUIET = 1e-6  # energy below which all is silence


class _Cast(nn.Module):
    """To another datatype. Where the network computes in half the bits, so does what is cast to a floating one."""

    _like: torch.Tensor

    def __init__(self, dtype: str):
        super().__init__()
        # Module.to converts it with the weights; on a device of its own, as others have no memory behind them yet.
        self.register_buffer("_like", torch.empty(0, dtype=getattr(torch, dtype), device="cpu"), persistent=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.to(self._like.dtype)


class _MelSpectrogram(nn.Module):
    """Loudness by pitch and time, as a logarithm: (items, 1, samples) to (items, 1, n_mels, frames)."""

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int):
        super().__init__()
        # No buffers: nothing to load, and float32 whatever the network computes in, as torch.stft wants it.
        self._window = torch.hann_window(n_fft, device="cpu")
        self._filters = _mel_filters(sample_rate, n_fft, n_mels)
        self._n_fft = n_fft
        self._hop_length = hop_length

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self._window, self._filters = self._window.to(batch.device), self._filters.to(batch.device)
        sound = batch.float().squeeze(1)  # (items, samples)
        waves = torch.stft(sound, self._n_fft, self._hop_length, window=self._window, return_complex=True)
        mels = self._filters @ waves.abs().square()  # (items, n_mels, frames) float32
        return torch.log(mels + _QUIET).unsqueeze(1).to(batch.dtype)


class _PositionalEmbedding(nn.Module):
    """To each token what was learnt of its place: (items, tokens, embedding_dim) to the same."""

    def __init__(self, num_positions: int, embedding_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, embedding_dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch + self.weight[: batch.shape[1]]


class _TransformerEncoderLayer(nn.TransformerEncoderLayer):
    """torch's own, items first as everything here."""

    def __init__(self, **options: Any):
        super().__init__(batch_first=True, **options)


class _Mean(nn.Module):
    """Over one dimension, as that of the tokens, which is gone then."""

    def __init__(self, dim: int):
        super().__init__()
        self._dim = dim

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.mean(self._dim)


class _GridBoxes(nn.Module):
    """Each cell of a grid is a candidate: (items, 4 + labels, rows, columns) to (items, rows * columns, 4 + labels).

    Of its four numbers the sigmoids are: where in the cell the centre is, across and down, and how much of the picture
    the box is, in width and height. They come out as shares of the picture: centre, width, height.
    """

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        rows, columns = batch.shape[2:]
        place, scores = batch[:, :4].float().sigmoid(), batch[:, 4:].float()
        across = torch.arange(columns, device=batch.device)
        down = torch.arange(rows, device=batch.device)[:, None]
        x, y = (place[:, 0] + across) / columns, (place[:, 1] + down) / rows
        boxes = torch.stack([x, y, place[:, 2], place[:, 3]], dim=1)
        return torch.cat([boxes, scores], dim=1).flatten(2).transpose(1, 2)


def _mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> torch.Tensor:
    """Triangles between pitches that are evenly spaced on the mel scale, (n_mels, n_fft // 2 + 1)."""
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, highest, n_mels + 2, device="cpu") / 2595) - 1)  # Hz
    hertz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, device="cpu")
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


# Layers that leave ids what they are.
_KEEP_IDS = ("identity", "flatten")
_IDS = ("int32", "int64")

# name: (torch's layer, options it must have, options it may have)
_LAYERS: dict[str, tuple[Callable[..., nn.Module], set[str], Mapping[str, _Kind]]] = {
    "conv2d": (
        nn.Conv2d,
        {"in_channels", "out_channels", "kernel_size"},
        _CONV | {"dilation": _SIZES, "groups": _SIZE, "bias": _FLAG},
    ),
    "linear": (
        nn.Linear,
        {"in_features", "out_features"},
        {"in_features": _SIZE, "out_features": _SIZE, "bias": _FLAG},
    ),
    "batch_norm2d": (nn.BatchNorm2d, {"num_features"}, {"num_features": _SIZE, "eps": _EPSILON, "affine": _FLAG}),
    "layer_norm": (nn.LayerNorm, {"normalized_shape"}, {"normalized_shape": _SHAPE, "eps": _EPSILON}),
    "max_pool2d": (nn.MaxPool2d, {"kernel_size"}, _POOL | {"dilation": _SIZES}),
    "avg_pool2d": (nn.AvgPool2d, {"kernel_size"}, _POOL | {"count_include_pad": _FLAG}),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, {"output_size"}, {"output_size": _SIZES}),
    "embedding": (
        nn.Embedding,
        {"num_embeddings", "embedding_dim"},
        {"num_embeddings": _COUNT, "embedding_dim": _SIZE},
    ),
    "positional_embedding": (
        _PositionalEmbedding,
        {"num_positions", "embedding_dim"},
        {"num_positions": _SIZE, "embedding_dim": _SIZE},
    ),
    "transformer_encoder_layer": (
        _TransformerEncoderLayer,
        {"d_model", "nhead"},
        {
            "d_model": _SIZE,
            "nhead": _SIZE,
            "dim_feedforward": _SIZE,
            "dropout": _SHARE,
            "activation": _ACTIVATION,
            "layer_norm_eps": _EPSILON,
            "norm_first": _FLAG,
            "bias": _FLAG,
        },
    ),
    "mean": (_Mean, {"dim"}, {"dim": _DIMENSION}),
    "cast": (_Cast, {"dtype"}, {"dtype": _DTYPE}),
    "mel_spectrogram": (_MelSpectrogram, set(_MEL), _MEL),
    "grid_boxes": (_GridBoxes, set(), {}),
    "flatten": (nn.Flatten, set(), {"start_dim": _DIMENSION}),
    "dropout": (nn.Dropout, set(), {"p": _SHARE}),
    "relu": (nn.ReLU, set(), {}),
    "gelu": (nn.GELU, set(), {"approximate": _GELU}),
    "silu": (nn.SiLU, set(), {}),
    "sigmoid": (nn.Sigmoid, set(), {}),
    "tanh": (nn.Tanh, set(), {}),
    "identity": (nn.Identity, set(), {}),
}


def build(layers: Sequence[Layer], source: str) -> nn.Sequential:
    """Build the network that `layers` describe, untrained, on torch's default device.

    Raises:
        BundleError: a layer or an option is not on the list, or a value is out of range.
    """
    return nn.Sequential(*(_build_layer(layer, f"{source}: network[{n}]") for n, layer in enumerate(layers)))


def id_limit_of(bundle: Bundle) -> int | None:
    """Return one more than the largest id that the input may hold; None if the network embeds none."""
    known = bundle.operations or bundle.graph
    return known.id_limit if known else id_limit(bundle.network)


def id_limit(layers: Sequence[Layer]) -> int | None:
    """Return `id_limit_of` for a chain of layers.

    An embedding has to come before all computation, because nobody could check computed ids before the device does.
    """
    first = next((layer for layer in layers if layer.kind not in _KEEP_IDS), None)
    return first.options["num_embeddings"] if first and first.kind == "embedding" else None


def check_ids(layers: Sequence[Layer], dtype: str, source: str) -> None:
    """Check ids before they reach an embedding.

    Raises:
        BundleError: an embedding would get ids that `id_limit` does not cover.
    """
    for n, layer in enumerate(layers):
        if layer.kind == "embedding" and any(before.kind not in _KEEP_IDS for before in layers[:n]):
            raise BundleError(f"{source}: network[{n}].embedding: wanted before all layers but {', '.join(_KEEP_IDS)}")
        if layer.kind == "embedding" and dtype not in _IDS:
            raise BundleError(f"{source}: inputs[0].dtype: {dtype!r} does not do, wanted {' or '.join(_IDS)} as ids")


def _build_layer(layer: Layer, where: str) -> nn.Module:
    if layer.kind not in _LAYERS:
        raise BundleError(f"{where}: {layer.kind!r} does not do, wanted one of {', '.join(sorted(_LAYERS))}")
    make, required, known = _LAYERS[layer.kind]
    for name, value in layer.options.items():
        if name not in known:
            raise BundleError(f"{where}.{layer.kind}: unknown option '{name}'; known are {', '.join(known) or 'none'}")
        if not known[name].fits(value):
            raise BundleError(f"{where}.{layer.kind}.{name}: {value!r} does not do, wanted {known[name].wanted}")
    for name in sorted(required - set(layer.options)):
        raise BundleError(f"{where}.{layer.kind}: option '{name}' is missing; add '{name}: {known[name].wanted}'")
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in layer.options.items()}
    try:
        return make(**options)
    except (ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise BundleError(f"{where}.{layer.kind}: the options do not fit together ({error})") from None
