"""The pages of plain files: the playground at `/`, and the page of the API at `/docs`.

The files in `service/api/static/` need no build step and load nothing from other hosts. They are
public even with API keys: a page asks for a key, and sends it with its requests.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.errors import UnknownPathError

FOLDER = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


class StaticPage:
    """A page, and the files that it loads, read once.

    Args:
        path: of the page.
        name: of the folder of its files, and the first part of their paths.
        summary: what it is, for the API's description.
        images: further sources of images.
    """

    def __init__(self, path: str, name: str, summary: str, images: str) -> None:
        self.path = path
        self.summary = summary
        self.files_path = f"/{name}/{{file}}"
        self._files: Mapping[str, bytes] = {
            file.name: file.read_bytes()
            for file in (FOLDER / name).iterdir()
            if file.suffix in MEDIA_TYPES
        }
        self.paths = frozenset({path, *(f"/{name}/{file}" for file in self._files)})
        self._policy = "; ".join(
            (
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "connect-src 'self'",
                f"img-src 'self' {images}",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            )
        )

    async def page(self, request: Request) -> Response:
        """Send the page."""
        if self.path != "/" and request.scope.get("raw_path", b"").endswith(b"/"):
            return RedirectResponse(f"..{self.path}")  # the page's relative addresses need this
        response = self._send("index.html", request)
        response.headers["Content-Security-Policy"] = self._policy
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


PLAYGROUND = StaticPage("/", "playground", "The playground.", "blob:")
"""A picture that needs a key is fetched, and shown from memory."""
API_PAGE = StaticPage("/docs", "docs", "The page of the API.", "data:")
"""The style sheet of Swagger UI has its icons in itself."""
STATIC_PAGES = (PLAYGROUND, API_PAGE)


def public_paths() -> frozenset[str]:
    """Return the paths of the pages and their files."""
    return frozenset[str]().union(*(page.paths for page in STATIC_PAGES))


def cacheable_response(content: bytes, media_type: str, request: Request) -> Response:
    """Return a response that browsers may cache, but must revalidate at each use."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):  # may be a list, or a weak tag from a proxy
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
