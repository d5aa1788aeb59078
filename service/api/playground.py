"""The playground: the page at `/`, and its files under `/playground/`.

The files in `service/api/static/` need no build step and load nothing from other hosts. They are
public even with API keys: the page asks for a key, and sends it with its requests.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from service.errors import UnknownPathError

FOLDER = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",  # a picture that needs a key is fetched, and shown from memory
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def paths(folder: Path = FOLDER) -> frozenset[str]:
    """Return the paths of the page and its files."""
    return frozenset({"/", *(f"/playground/{file.name}" for file in folder.iterdir())})


class Playground:
    """The files of the playground, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: Mapping[str, bytes] = {
            file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in MEDIA_TYPES
        }

    async def page(self, request: Request) -> Response:
        """Send the page."""
        response = self._send("index.html", request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response

    async def file(self, request: Request) -> Response:
        """Send a file of the page.

        Raises:
            UnknownPathError: there is no file of that name.
        """
        return self._send(request.path_params["file"], request)

    def _send(self, name: str, request: Request) -> Response:
        if name not in self._files:
            raise UnknownPathError(f"There is nothing at {request.url.path!r}.")
        return cacheable_response(self._files[name], MEDIA_TYPES[Path(name).suffix], request)


def cacheable_response(content: bytes, media_type: str, request: Request) -> Response:
    """Return a response that browsers may cache, but must revalidate at each use."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):  # may be a list, or a weak tag from a proxy
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
