"""Decodes some frames of a video. The bytes are untrusted, so they are bounded before and during decoding."""

from __future__ import annotations

from dataclasses import dataclass

import av
import av.container
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type as SideData
from PIL import Image

from bedplate.bundle.tensor import MAX_SIDE, Clip
from bedplate.decode.container import VIDEOS, codec_of, opened, require_length, unsupported
from bedplate.decode.image import scaled, to_tensor
from bedplate.errors import TooManyPixels, UnreadableMedia

_FORMATS = {"L": "gray", "RGB": "rgb24"}


@dataclass(frozen=True)
class Frames:
    tensors: npt.NDArray[np.float32]  # (frames, channels, height, width)
    times_s: list[float]  # of each frame, from the beginning


def frames_of(data: bytes | memoryview, spec: Clip, max_s: float, max_pixels: int) -> Frames:
    """Return `spec.frames` frames, evenly spaced over the video, or fewer if it has fewer.

    Raises:
        UnsupportedMediaType, UnreadableMedia: it is none of VIDEOS, or broken.
        MediaTooLong, TooManyPixels: it is longer than `max_s`, or a frame is larger than `max_pixels`.
    """
    with opened(data, VIDEOS) as container:
        if not container.streams.video:
            raise unsupported("the file holds no pictures", VIDEOS)
        stream = container.streams.video[0]
        _require_size(codec_of(stream), max_pixels)
        wanted = _spread(_count(container, stream, max_s), spec.frames)
        container.seek(0)
        tensors, times_s = [], []
        for number, frame in enumerate(container.decode(stream)):
            if number not in wanted:
                continue
            _require_size(frame, max_pixels)  # it may change in the middle of a stream
            tensors.append(_tensor(frame, spec))
            times_s.append(round(frame.time or 0.0, 3))
            if len(tensors) == len(wanted):
                break
    if not tensors:
        raise UnreadableMedia("no picture of the video can be decoded", next_step="check that the file is complete")
    return Frames(np.stack(tensors), times_s)


def _count(container: av.container.InputContainer, stream: av.VideoStream, max_s: float) -> int:
    """Its pictures, as they lie in the file: what a header says may be wrong."""
    count = 0
    for packet in container.demux(stream):
        if packet.size:
            count += 1
        if packet.pts is not None and packet.time_base:
            require_length(float(packet.pts * packet.time_base), max_s)
    if not count:
        raise UnreadableMedia("the file holds no pictures", value=0, next_step="send a video")
    return count


def _spread(count: int, frames: int) -> set[int]:
    """Numbers of `frames` pictures among `count`, each from the middle of its part."""
    return {int((part + 0.5) * count / frames) for part in range(frames)}


def _require_size(picture: av.VideoCodecContext | av.VideoFrame, max_pixels: int) -> None:
    pixels = picture.width * picture.height
    if pixels > max_pixels or max(picture.width, picture.height) > MAX_SIDE:
        raise TooManyPixels(
            f"a picture of the video has {picture.width} x {picture.height} pixels, {max_pixels} are allowed",
            value=pixels,
            limit=max_pixels,
            next_step="send a smaller video, or ask the operator to raise bedplate_max_pixels",
        )


def _tensor(frame: av.VideoFrame, spec: Clip) -> npt.NDArray[np.float32]:
    picture, matrix = spec.picture, _matrix(frame)
    if any(component.is_alpha for component in frame.format.components):
        whole = np.asarray(frame.reformat(format="rgba", threads=1).to_ndarray(), np.uint8)
        return to_tensor(Image.fromarray(_turned(whole, matrix)), picture)
    width, height = (picture.height, picture.width) if _is_on_its_side(matrix) else (picture.width, picture.height)
    # Of one thread, as this process is on one core.
    same = frame.reformat(width, height, _FORMATS[picture.mode], interpolation="BILINEAR", threads=1)
    return scaled(_turned(np.asarray(same.to_ndarray(), np.uint8), matrix), picture)


def _matrix(frame: av.VideoFrame) -> npt.NDArray[np.int32] | None:
    """How players turn and mirror it: where x and y of the file go on the screen."""
    found = frame.side_data.get(SideData.DISPLAYMATRIX)  # type: ignore[call-overload]
    return None if found is None else np.frombuffer(found, np.int32).reshape(3, 3)[:2, :2]


def _is_on_its_side(matrix: npt.NDArray[np.int32] | None) -> bool:
    """Whether x becomes y. Of turns between two quarters the nearer one counts."""
    if matrix is None:
        return False
    [[xx, xy], [yx, yy]] = np.abs(matrix.astype(np.int64))
    return bool(xy + yx > xx + yy)


def _turned(picture: npt.NDArray[np.uint8], matrix: npt.NDArray[np.int32] | None) -> npt.NDArray[np.uint8]:
    """(height, width) or (height, width, channels), as it is seen."""
    if matrix is None:
        return picture
    [[xx, xy], [yx, yy]] = matrix
    if _is_on_its_side(matrix):
        picture, xx, yy = picture.swapaxes(0, 1), yx, xy
    picture = picture[:, ::-1] if xx < 0 else picture
    return np.ascontiguousarray(picture[::-1] if yy < 0 else picture)
