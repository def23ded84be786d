"""What goes into a bundle's model and what comes out, in words."""

from __future__ import annotations

from bedplate.bundle.tensor import Picture, Tensor


def tensor_shown(spec: Tensor) -> str:
    return f"{spec.name}: {spec.dtype} {spec.shown}{_source(spec)}"


def _source(spec: Tensor) -> str:
    """What it is made of, where that is a file."""
    if spec.image:
        return f", of a picture {_pixels(spec.image)}"
    if spec.sound:
        return f", of a recording at {spec.sound.rate_hz} Hz, a window every {spec.sound.hop} samples"
    if spec.clip:
        return f", of a video {_pixels(spec.clip.picture)}, {spec.clip.frames} of its pictures"
    if spec.text:
        cut = ", cut to fit" if spec.text.truncation else ""
        return f", of a text of at most {spec.text.max_characters} characters by {spec.text.tokenizer}{cut}"
    return ""


def _pixels(picture: Picture) -> str:
    return f"{picture.mode} {picture.width} x {picture.height} pixels"
