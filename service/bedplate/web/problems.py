"""The one place where errors become HTTP answers (docs/adr/0003): as problems, on /v2 in its protocol's form."""

from __future__ import annotations

import json
import logging
from typing import Any

import falcon
from falcon.asgi import App, Request, Response

from bedplate import errors
from bedplate.errors import ServiceError
from bedplate.web.observer import observation
from bedplate.web.oip import problem

_log = logging.getLogger("bedplate.web")

STATUS: dict[type[ServiceError], int] = {
    errors.EmptyBody: 400,
    errors.MalformedJson: 400,
    errors.MalformedCsv: 400,
    errors.MalformedMultipart: 400,
    errors.MalformedEncoding: 400,
    errors.InvalidTimeout: 400,
    errors.InvalidPriority: 400,
    errors.InvalidParameter: 400,
    errors.MissingCredential: 401,
    errors.WrongCredential: 401,
    errors.UnknownModel: 404,
    errors.UnknownUser: 404,
    errors.UnknownRoute: 404,
    errors.MethodNotAllowed: 405,
    errors.BodyTooLarge: 413,
    errors.TooManyItems: 413,
    errors.TooManyPixels: 413,
    errors.MediaTooLong: 413,
    errors.TooMuchMemory: 413,
    errors.UnsupportedMediaType: 415,
    errors.UnknownField: 422,
    errors.WrongShape: 422,
    errors.WrongSize: 422,
    errors.UnreadableMedia: 422,
    errors.NotFinite: 422,
    errors.OutOfRange: 422,
    errors.WrongValue: 422,
    errors.EngineBusy: 429,
    errors.DecoderBusy: 429,
    errors.ServerBusy: 429,
    errors.Internal: 500,
    # Never what nginx tries on another host (502, 503): two engines are enough.
    errors.EnginesLost: 500,
    errors.EngineUnavailable: 503,
    errors.DecoderUnavailable: 503,
    errors.Draining: 503,
    errors.OutOfMemory: 503,
    errors.DeadlineExceeded: 504,
}


def install(app: App[Request, Response]) -> None:
    """Answer every error of `app` as problem+json, or on /v2 in its protocol's form."""
    app.add_error_handler(Exception, _on_fault)
    app.add_error_handler(falcon.HTTPError, _on_falcon)
    app.add_error_handler(ServiceError, _on_service_error)


async def _on_service_error(req: Request, resp: Response, error: Any, params: Any) -> None:
    _answer(req, resp, error)
    # Of a computation that several wait for it leads back to the error: a circle that would hold the body for a while.
    error.__traceback__ = None


async def _on_falcon(req: Request, resp: Response, error: Any, params: Any) -> None:
    """What Falcon itself refuses, said in our words."""
    if error.status_code == falcon.HTTP_NOT_FOUND or isinstance(error, falcon.HTTPNotFound):
        _answer(req, resp, errors.UnknownRoute("no such route", next_step="GET /v1/models lists what there is"))
    elif isinstance(error, falcon.HTTPMethodNotAllowed):
        allowed = dict(error.headers or {}).get("Allow", "")
        resp.set_header("Allow", allowed)
        _answer(req, resp, errors.MethodNotAllowed("the route does not take this method", limit=allowed))
    else:
        _log.warning("falcon refused: %s", error.status, extra={"request_id": req.context.request_id})
        _write(req, resp, error.status_code, errors.InvalidRequest(error.title or "Bad request"), "bad-request")


async def _on_fault(req: Request, resp: Response, error: Any, params: Any) -> None:
    _log.error("fault while answering", exc_info=error, extra={"request_id": req.context.request_id})
    _answer(req, resp, errors.Internal("something went wrong here; the operator finds it under the request id"))


def _answer(req: Request, resp: Response, error: ServiceError) -> None:
    _write(req, resp, STATUS[type(error)], error, error.code)


def _write(req: Request, resp: Response, status: int, error: ServiceError, code: str) -> None:
    observation(req).problem = code
    resp.status = status
    resp.content_type, resp.data, headers = rendered(req.path, req.context.request_id, status, error, code)
    for name, value in headers.items():
        resp.set_header(name, value)


def rendered(
    path: str, request_id: str, status: int, error: ServiceError, code: str
) -> tuple[str, bytes, dict[str, str]]:
    """Return content type, body and headers of an error."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(error.retry_after_s or 1)
    if problem.speaks(path):
        return "application/json", problem.error_body(error), headers
    return "application/problem+json", _problem(request_id, status, error, code), headers


def _problem(request_id: str, status: int, error: ServiceError, code: str) -> bytes:
    body = {
        "type": f"urn:bedplate:problem:{code}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "value": error.value,
        "limit": error.limit,
        "next_step": error.next_step,
        "request_id": request_id,
    }
    return json.dumps({key: item for key, item in body.items() if item is not None}).encode()
