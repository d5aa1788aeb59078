"""Convert the error responses of BentoML and Starlette to the JSON of this service.

They respond to an unknown path with plain text, and to a refused media type with a list. Here every
error is `{"error": "<one sentence>"}`.
"""

from contextlib import suppress

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import MethodNotAllowedError
from service.http.responses import error_response, json_response


class ErrorMiddleware:
    """ASGI middleware that rewrites error responses of other libraries, and passes on the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        error_start: Message | None = None
        body = b""

        async def shaped(message: Message) -> None:
            nonlocal error_start, body
            if message["type"] == "http.response.start" and _starts_other_error(message):
                error_start = message
                return
            if error_start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    await _shaped(error_start, body, scope)(scope, receive, send)

        await self.app(scope, receive, shaped if scope["type"] == "http" else send)


def _starts_other_error(start: Message) -> bool:
    """Return whether this starts an error response that `json_response` did not make."""
    return start["status"] >= 400 and "x-request-id" not in Headers(raw=start["headers"])


def _shaped(start: Message, body: bytes, scope: Scope) -> Response:
    status, headers = start["status"], Headers(raw=start["headers"])
    sentence = body.decode(errors="replace").strip()
    with suppress(orjson.JSONDecodeError, LookupError, TypeError):
        content = orjson.loads(body)
        sentence = str((content[0] if isinstance(content, list) else content)["error"])
    if status == 404:
        sentence = f"There is nothing at {scope['path'][:100]!r}; /docs.json says what there is."
    elif status == 405:  # Starlette's order of methods varies
        allowed = sorted(headers.get("allow", "POST").split(", "))
        return error_response(MethodNotAllowedError(scope["method"], *allowed))
    extra_headers = [(name, headers[name]) for name in ("retry-after",) if name in headers]
    return json_response({"error": sentence}, status, extra_headers)
