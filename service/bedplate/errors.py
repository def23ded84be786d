"""Every error the service answers with.

ServiceError                    code, value, limit, next step
├── InvalidRequest              the caller can fix it
│   ├── EmptyBody  MalformedJson  MalformedCsv  MalformedMultipart  MalformedEncoding
│   ├── MissingCredential  WrongCredential
│   ├── InvalidTimeout  InvalidPriority  InvalidParameter
│   ├── UnknownModel  UnknownUser  UnknownRoute  MethodNotAllowed
│   ├── BodyTooLarge  TooManyItems  TooManyPixels  MediaTooLong  TooMuchMemory
│   ├── UnsupportedMediaType
│   └── UnknownField  WrongShape  WrongSize  UnreadableMedia  NotFinite  OutOfRange  WrongValue
├── EngineBusy  DecoderBusy  ServerBusy     worth retrying
├── EngineUnavailable  DecoderUnavailable   worth retrying
├── Draining                    worth retrying
├── OutOfMemory                 worth retrying with less
├── DeadlineExceeded
├── EnginesLost                 the end of two engines that computed it; never worth retrying unchanged
└── Internal                    nothing is said about the fault

The code names the error on the wire and in `urn:bedplate:problem:<code>`; `web/problems.py` maps it to a status.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ServiceError(Exception):
    """An error with what the caller needs: the value that was found, the limit, and the next step."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        value: str | int | float | None = None,
        limit: str | int | float | None = None,
        next_step: str | None = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(detail)
        self.detail = detail
        self.value = value
        self.limit = limit
        self.next_step = next_step
        self.retry_after_s = retry_after_s

    def to_meta(self) -> dict[str, Any]:
        """Return the metadata of an ERROR frame."""
        meta = {
            "code": self.code,
            "detail": self.detail,
            "value": self.value,
            "limit": self.limit,
            "next_step": self.next_step,
            "retry_after_s": self.retry_after_s,
        }
        return {key: item for key, item in meta.items() if item is not None}


def from_meta(meta: dict[str, Any]) -> ServiceError:
    """Return the error that an ERROR frame describes; an unknown code becomes Internal."""
    kind = _BY_CODE.get(str(meta.get("code")), Internal)
    return kind(
        str(meta.get("detail", kind.title)),
        value=meta.get("value"),
        limit=meta.get("limit"),
        next_step=meta.get("next_step"),
        retry_after_s=meta.get("retry_after_s"),
    )


class InvalidRequest(ServiceError):
    """The request cannot be answered as it is; the caller can change it."""

    title = "Bad request"


class EmptyBody(InvalidRequest):
    code = "empty-body"
    title = "Empty body"


class MalformedJson(InvalidRequest):
    code = "malformed-json"
    title = "Malformed JSON"


class MalformedCsv(InvalidRequest):
    code = "malformed-csv"
    title = "Malformed CSV"


class MalformedMultipart(InvalidRequest):
    code = "malformed-multipart"
    title = "Malformed multipart body"


class MalformedEncoding(InvalidRequest):
    code = "malformed-encoding"
    title = "Malformed compressed body"


class MissingCredential(InvalidRequest):
    code = "missing-credential"
    title = "Missing credential"


class WrongCredential(InvalidRequest):
    code = "wrong-credential"
    title = "Wrong credential"


class InvalidTimeout(InvalidRequest):
    code = "invalid-timeout"
    title = "Invalid timeout"


class InvalidPriority(InvalidRequest):
    code = "invalid-priority"
    title = "Invalid priority"


class InvalidParameter(InvalidRequest):
    code = "invalid-parameter"
    title = "Invalid parameter"


class UnknownModel(InvalidRequest):
    code = "unknown-model"
    title = "Unknown model"


class UnknownUser(InvalidRequest):
    code = "unknown-user"
    title = "Unknown user"


class UnknownRoute(InvalidRequest):
    code = "unknown-route"
    title = "Unknown route"


class MethodNotAllowed(InvalidRequest):
    code = "method-not-allowed"
    title = "Method not allowed"


class BodyTooLarge(InvalidRequest):
    code = "body-too-large"
    title = "Body too large"


class TooManyItems(InvalidRequest):
    code = "too-many-items"
    title = "Too many items"


class TooManyPixels(InvalidRequest):
    code = "too-many-pixels"
    title = "Too many pixels"


class MediaTooLong(InvalidRequest):
    code = "media-too-long"
    title = "Recording, video or text too long"


class TooMuchMemory(InvalidRequest):
    code = "too-much-memory"
    title = "Too much memory"


class UnsupportedMediaType(InvalidRequest):
    code = "unsupported-media-type"
    title = "Unsupported media type"


class UnknownField(InvalidRequest):
    code = "unknown-field"
    title = "Unknown field"


class WrongShape(InvalidRequest):
    code = "wrong-shape"
    title = "Wrong shape"


class WrongSize(InvalidRequest):
    code = "wrong-size"
    title = "Wrong size"


class UnreadableMedia(InvalidRequest):
    code = "unreadable-media"
    title = "Unreadable file"


class NotFinite(InvalidRequest):
    code = "not-finite"
    title = "Not a finite number"


class OutOfRange(InvalidRequest):
    code = "out-of-range"
    title = "Number out of range"


class WrongValue(InvalidRequest):
    code = "wrong-value"
    title = "Wrong value"


class EngineBusy(ServiceError):
    """The engine's queue is full; a retry is worthwhile after `retry_after_s` seconds."""

    code = "engine-busy"
    title = "Engine busy"


class EngineUnavailable(ServiceError):
    """No engine can take the request at the moment."""

    code = "engine-unavailable"
    title = "Engine unavailable"


class DecoderBusy(ServiceError):
    """The queue of the decoders is full; a retry is worthwhile after `retry_after_s` seconds."""

    code = "decoder-busy"
    title = "Decoder busy"


class ServerBusy(ServiceError):
    """The bodies of other requests fill the memory for bodies; a retry is worthwhile after `retry_after_s` seconds."""

    code = "server-busy"
    title = "Server busy"


class DecoderUnavailable(ServiceError):
    """No decoder can take the request at the moment."""

    code = "decoder-unavailable"
    title = "Decoder unavailable"


class Draining(ServiceError):
    """The program is stopping and accepts no new requests."""

    code = "draining"
    title = "Draining"


class OutOfMemory(ServiceError):
    """An item does not fit into the device's memory, not even alone."""

    code = "out-of-memory"
    title = "Out of memory"


class DeadlineExceeded(ServiceError):
    """The answer would come, or came, after the deadline."""

    code = "deadline-exceeded"
    title = "Deadline exceeded"


class EnginesLost(ServiceError):
    """Two engines ended, or disconnected, while each computed the request, so the request is probably the reason."""

    code = "engine-lost"
    title = "Engine lost"


class Internal(ServiceError):
    """A fault of the service. The log has the reason under the request id; the caller learns nothing else."""


def _with_subclasses(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _with_subclasses(child))]


_BY_CODE = {kind.code: kind for kind in _with_subclasses(ServiceError) if "code" in vars(kind)}
_BY_CODE["internal"] = Internal
CODES = tuple(sorted(_BY_CODE))
