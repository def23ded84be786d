"""A model of Hugging Face's that takes pictures, with its processor's way from pixels to numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from bedplate.bundle.canary import MAX_CANARY_BYTES
from bedplate.bundle.strict_yaml import BundleError, Section, words_of
from bedplate.bundle.tensor import INTERPOLATIONS, Picture, read_input
from bedplate.decode.image import open_image, to_tensor, upright
from bedplate.importers.answers import Answers
from bedplate.importers.export import export
from bedplate.importers.exported import Exported, as_program
from bedplate.importers.options import BundleOptions, Options
from bedplate.importers.writing import Array, Imported, answers_of, numbers_validation

MAX_PIXELS = 100_000_000
_DRAWN = 16
_SIZES = ((320, 240), (200, 300), (97, 641), (512, 512))  # width and height of drawn pictures, in turn
_MAX_VALIDATION_BYTES = 32 << 20
_MOST_OFF = 1 / 255  # of a number between 0 and 1, before mean and deviation
_KINDS = {".png", ".jpg", ".jpeg", ".webp", ".avif"}


class Logits(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=picture).logits
        return logits


def imported(
    folder: Path,
    model: Any,
    head: Callable[[Any, torch.Tensor], nn.Module],
    answers: Answers,
    options: Options,
) -> Imported:
    """
    Args:
        head: makes of the model, and of pictures (items, 3, height, width), what takes such and gives answers.

    Raises:
        BundleError: its processor does what a bundle cannot, or torch cannot export it.
    """
    processor = _processor(folder)
    contents = contents_of(options.examples)
    wanted = [_processed(processor, content) for content in contents]  # (1, 3, height, width) each
    spec = _spec(processor, list(wanted[0].shape[1:]), folder)
    picture = read_picture(spec, str(folder / "preprocessor_config.json"))
    off = max(_off(picture, content, one) for content, one in zip(contents, wanted, strict=True))
    if off > _MOST_OFF:
        raise BundleError(
            f"{folder / 'preprocessor_config.json'}: {type(processor).__name__} makes other numbers of a picture than "
            f"a bundle can, by {off:.3f} of full scale; import the module by 'bedplate bundle import torch'"
        )
    questions = np.concatenate(wanted)
    example = torch.from_numpy(questions[:2])
    module = head(model, example).eval()
    graph = export(module, example, options.max_items, {}, str(folder))
    described_as = options.description or f"{type(model).__name__} of {folder.resolve().name}"
    chosen = [
        described(picture, options.examples, len(contents)),
        f"pictures differ from {type(processor).__name__}'s by {off:.1g} at most",
    ]
    return bundled(
        as_program(graph.exported, str(folder)),
        spec,
        contents,
        questions,
        answers_of(module, questions),
        answers,
        replace(options, max_items=graph.max_items, description=described_as),
        str(folder),
        chosen,
    )


def bundled(
    network: Exported | bytes,
    spec: Mapping[str, Any],
    contents: Sequence[bytes],
    questions: Array,
    found: Array,
    answers: Answers,
    options: BundleOptions,
    source: str,
    chosen: Sequence[str],
) -> Imported:
    """A model that takes pictures, of whatever kind its network is.

    Args:
        spec: the input, as bundle.yaml has it.
        contents: pictures as clients send them.
        questions: the same as the network takes them, (items, *shape).
        found: what the original said to each, (items, numbers).

    Raises:
        BundleError: there are more labels than numbers, or fewer.
    """
    answers.require(found, source)
    at = answers.canary(found)
    canary = f"canary.{_kind_of(contents[at])}"
    document: dict[str, Any] = {
        **options.document(answers.task("image-classification"), f"Imported from {Path(source).name}"),
        "inputs": [dict(spec)],
        "batch": {"max_items": options.max_items},
        **answers.document(canary, found),
    }
    return Imported(
        document,
        network,
        {canary: contents[at], **answers.files(found)},
        numbers_validation(questions, found, bool(answers.labels), _MAX_VALIDATION_BYTES),
        [questions],
        [found.astype(np.float64)],
        chosen,
    )


def described(picture: Picture, examples: Path | None, count: int) -> str:
    """How pictures become numbers, and where those of the canary and the validation set are from."""
    resize = picture.resize
    if not resize:
        way = f"resized to {picture.width} x {picture.height}"
    else:
        side = f"shorter side {resize.shorter_side}" if resize.shorter_side else f"{resize.width} x {resize.height}"
        way = f"resized to {side}, the middle {picture.width} x {picture.height}"
    source = f"of {examples}" if examples else "drawn by chance: --examples takes real ones"
    return f"pictures {way}, {picture.interpolation}; validation set and canary of {count} pictures {source}"


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor  # noqa: PLC0415

    try:
        # Pillow's way, as decoders have it; the other backend's differs in the last bit.
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
    except Exception as error:
        said = words_of(error)
        raise BundleError(f"{folder}: transformers cannot load its image processor: {said}") from None


def contents_of(examples: Path | None) -> list[bytes]:
    """Pictures as clients send them, each of which may become the canary."""
    if examples is None:
        return [_drawn(number) for number in range(_DRAWN)]
    files = sorted(path for path in examples.iterdir() if path.suffix.lower() in _KINDS)
    if not files:
        raise BundleError(f"{examples}: has no picture ({', '.join(sorted(_KINDS))})")
    contents = [path.read_bytes() for path in files]
    small = [content for content in contents if len(content) <= MAX_CANARY_BYTES]
    if not small:
        raise BundleError(f"{examples}: has no picture of at most {MAX_CANARY_BYTES} bytes, for the canary; add one")
    return small


def _kind_of(content: bytes) -> str:
    return str(open_image(content, MAX_PIXELS).format).lower()


def _drawn(number: int) -> bytes:
    """Soft colours with some grain."""
    random = np.random.default_rng(number)
    width, height = _SIZES[number % len(_SIZES)]
    soft = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = random.integers(-12, 13, (height, width, 3))
    return _png(Image.fromarray(np.clip(np.asarray(soft, np.int16) + grain, 0, 255).astype(np.uint8)))


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _processed(processor: Any, content: bytes) -> Array:
    picture = upright(open_image(content, MAX_PIXELS)).convert("RGB")
    found = processor(images=picture, return_tensors="np")["pixel_values"]
    return np.asarray(found, np.float32)


def _spec(processor: Any, shape: list[int], folder: Path) -> dict[str, Any]:
    """The input of bundle.yaml, of what a processor says of itself."""
    said = processor.to_dict()
    source = folder / "preprocessor_config.json"
    if len(shape) != 3 or shape[0] != 3:
        raise BundleError(f"{source}: makes numbers of the shape {shape}, wanted [3, height, width]")
    rescales, normalizes = said.get("do_rescale", True), said.get("do_normalize", True)
    image: dict[str, Any] = {
        "mode": "RGB",
        "height": shape[1],
        "width": shape[2],
        "scale": float(said.get("rescale_factor", 1 / 255)) if rescales else 1.0,
        "mean": [float(one) for one in said["image_mean"]] if normalizes else [0.0] * 3,
        "std": [float(one) for one in said["image_std"]] if normalizes else [1.0] * 3,
        "background": "drop",
        "interpolation": _interpolation(said.get("resample", 2), source),
    }
    if resize := _resize(said, shape):
        image["resize"] = resize
    return {"name": "picture", "dtype": "float32", "shape": shape, "image": image}


def _interpolation(resample: Any, source: Path) -> str:
    name = Image.Resampling(int(resample)).name.lower()
    if name not in INTERPOLATIONS:
        raise BundleError(f"{source}: resample: {resample} does not do, wanted one of {', '.join(INTERPOLATIONS)}")
    return name


def _resize(said: Mapping[str, Any], shape: list[int]) -> dict[str, int] | None:
    size = said.get("size") or {}
    if not said.get("do_resize", True) or not size:
        return None
    if edge := size.get("shortest_edge"):
        if (share := said.get("crop_pct")) and not said.get("do_center_crop"):
            # ConvNeXT's own: below 384 the middle of something larger, from there on stretched.
            return {"shorter_side": int(edge / share)} if edge < 384 else None
        return {"shorter_side": int(edge)}
    whole = {"height": int(size["height"]), "width": int(size["width"])} if "height" in size else None
    return None if whole is None or list(whole.values()) == shape[1:] else whole


def read_picture(spec: Mapping[str, Any], source: str) -> Picture:
    picture = read_input(Section(source, dict(spec)), "image").image
    assert picture
    return picture


def _off(picture: Picture, content: bytes, wanted: Array) -> float:
    """How far a decoder's numbers are from the processor's, before mean and deviation, as a share of full scale."""
    found = to_tensor(upright(open_image(content, MAX_PIXELS)), picture)
    scale = np.asarray(picture.std, np.float32).reshape(3, 1, 1) / (picture.scale * 255)
    return float((np.abs(found - wanted[0]) * scale).max())
