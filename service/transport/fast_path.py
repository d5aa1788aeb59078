"""The fast path of a prediction: from the socket to its endpoint, and back in one write.

uvicorn makes an ASGI cycle of each request, with scope, events, messages and timers, and BentoML
adds a chain of handlers. Each of them takes longer than a small prediction. A prediction request
that arrives whole therefore goes directly to its endpoint: no ASGI, no task, one write. Every other
request takes the ASGI path.

Clients repeat the header of their requests. A header that took the fast path is cached, and is not
parsed again.
"""

import math
from asyncio import Future, Transport
from collections.abc import Mapping
from functools import partial
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.concurrency import Cancellable
from service.http.app import CLIENT_CLOSED_REQUEST, CachedHeader
from service.http.client_network import client_network
from service.http.compression import compressed, preferred_coding
from service.http.responses import Reply, Responder, error_response
from service.telemetry.request_context import RequestContext, start_request
from service.transport.connection import Connection
from service.transport.framing import Lines, check_framing
from service.transport.lingering import LingeringTransport
from service.transport.protocol import END, RequestCycle

_MAX_CACHED_HEADERS = 1_000
_MAX_CACHED_BYTES = 2_000  # of one header
_NEVER_CACHED = {b"transfer-encoding", b"authorization", b"x-api-key", b"cookie"}
"""A header with one of these fields is not cached: the body has another length, or the field holds
a secret."""


class FastPath(Connection):
    """The connection with the fast path."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._data = b""  # the bytes that arrived, if a request begins with them
        self._responder: Responder | None = None  # of the request that arrives on the fast path
        self._path = ""
        self._request_headers: dict[bytes, bytes] = {}
        self._header_count = 0  # fields beyond it are trailers, which are ignored
        self._body = b""
        self._network = ""  # of the peer
        settings = self.application.settings
        self._max_body_bytes = settings.max_body_bytes
        self.compress_from: float = settings.compress_from_bytes or math.inf
        """The smallest body that is compressed, in bytes."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Note the network of the peer."""
        super().connection_made(transport)
        self._network = client_network(self.client)

    def data_received(self, data: bytes) -> None:
        """Handle received bytes: usually one request with a cached header."""
        if self._between and not self._held:
            end = data.find(END) + len(END)
            cached = self.application.header_cache.get(data[:end])
            if cached is not None and len(data) == end + cached.length and self._is_free():
                self._end_header()
                self._respond(cached.path, cached.headers, cached.responder, data[end:])
                return
            self._data = data
        super().data_received(data)
        self._data = b""

    def _is_free(self) -> bool:
        """Return whether a request that arrives now is the next to be answered."""
        return not self._is_answering()

    def _after_parse(self) -> None:
        """Send a request that has not arrived whole along the ASGI path."""
        if self._responder is None:
            super()._after_parse()
        elif not self._is_closing():
            self._take_asgi_path()

    def on_message_begin(self) -> None:
        """Begin a request; its ASGI scope is made only if it takes the ASGI path."""
        self._between, self._reading, self._left = False, None, 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Choose between the fast path and the ASGI path.

        Raises:
            ServiceError: the request is refused: it is too large, or its framing is ambiguous.
        """
        self._end_header()
        parser, headers = self.parser, dict(self.headers)
        check_framing(
            parser.get_method(), self.url, parser.get_http_version(), self.headers, headers
        )
        if parser.should_upgrade():
            return  # the request is parsed again without the offer
        self._left = int(headers.get(b"content-length", 0))
        self._path = self.url.decode("latin-1")
        responder = self.application.responder(self._path, headers)
        if (
            responder is not None
            and b"%" not in self.url
            and b"?" not in self.url
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not self.expect_100_continue
            and self._is_free()
            and not self.root_path
            and self.limit_concurrency is None
            and not _is_repeated(b"x-forwarded-for", self.headers, headers)
        ):
            self._responder, self._request_headers, self._body = responder, headers, b""
            self._header_count = len(self.headers)
        else:
            self._begin_asgi_path()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unused = 0
        self._left -= len(body)
        if self._responder is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """Answer a request that has arrived whole."""
        if self.parser.should_upgrade():
            return
        self._unused, self._between = 0, True
        if self._responder is not None and len(self._body) > self._max_body_bytes:
            self._take_asgi_path()
        if self._responder is None:
            super().on_message_complete()
            return
        responder, self._responder = self._responder, None
        self._cache_header(responder)
        self._respond(self._path, self._request_headers, responder, self._body)

    def _cache_header(self, responder: Responder) -> None:
        """Cache the header, if the received bytes are exactly the header and the body."""
        data, self._data, length = self._data, b"", len(self._body)
        end = data.find(END) + len(END)
        if (
            len(data) == end + length
            and end <= _MAX_CACHED_BYTES
            and _NEVER_CACHED.isdisjoint(self._request_headers)
        ):
            cache = self.application.header_cache
            if len(cache) >= _MAX_CACHED_HEADERS:
                cache.clear()
            cache[data[:end]] = CachedHeader(self._path, self._request_headers, responder, length)

    def _respond(
        self, path: str, headers: dict[bytes, bytes], responder: Responder, body: bytes
    ) -> None:
        context = start_request("POST", path, headers)
        forwarded = headers.get(b"x-forwarded-for")
        context.client = self._network if forwarded is None else self._forwarded_for(forwarded)
        cycle = FastPathCycle(self, context, keep_alive=not self._draining)
        self._answering = cycle
        self.cycle = cycle  # type: ignore[assignment]  # it has what the protocol asks of a cycle
        cycle.run(responder, body)

    def _forwarded_for(self, addresses: bytes) -> str:
        """Return the network of the client that a trusted proxy names, as uvicorn does for ASGI.

        `FORWARDED_ALLOW_IPS` lists the trusted proxies, and is 127.0.0.1 and ::1 by default.
        """
        app, peer = self.app, self.client and self.client[0]
        if not isinstance(app, ProxyHeadersMiddleware) or peer not in app.trusted_hosts:
            return self._network
        client = app.trusted_hosts.get_trusted_client_address(addresses.decode("latin-1"))
        return client_network(client) or self._network

    def _begin_asgi_path(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        self._reading = self.cycle
        cycle: Any = self.cycle
        if cycle is not None:
            cycle.transport = LingeringTransport(
                self.transport,
                close=partial(self._close, self.loop.time()),
                write=partial(self._write, self.transport),
            )
        if self._draining and self.cycle is not None:
            self.cycle.keep_alive = False
        self.headers = []  # for the trailers of a body in chunks

    def _take_asgi_path(self) -> None:
        self._responder = None
        del self.headers[self._header_count :]
        self._begin_asgi_path()
        if self._body:
            super().on_body(self._body)


def _is_repeated(name: bytes, lines: Lines, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a header field is sent more than once; `headers` has one value of each."""
    if len(lines) == len(headers) or name not in headers:
        return False
    return sum(line_name == name for line_name, _ in lines) > 1


class FastPathCycle(RequestCycle):
    """One request on the fast path, and its response.

    Args:
        connection: that the request came on.
        context: of the request.
        keep_alive: whether the connection stays open after the response.
    """

    __slots__ = ("_connection", "_context", "_handle", "_packing")

    def __init__(self, connection: FastPath, context: RequestContext, *, keep_alive: bool) -> None:
        super().__init__(connection.transport, keep_alive=keep_alive)
        self._connection = connection
        self._context = context
        self._handle: Cancellable | None = None
        self._packing: Future[bytes] | None = None

    def run(self, responder: Responder, body: bytes) -> None:
        """Authenticate the request and have the responder answer it."""
        context = self._context
        try:
            self._connection.application.authenticate(context)
            handle = responder(context, body, self.reply)
        except Exception as error:  # noqa: BLE001 - the boundary of the fast path
            self.reply(error_response(error, context))
            return
        if not self.response_complete:
            self._handle = handle

    def reply(self, reply: Reply) -> None:
        """Send the response, compressed if the request asks for that."""
        # Disconnected while a long response was written. A second response, for an error after the
        # first, would be taken for that to the next request.
        if self.disconnected or self.response_complete:
            return
        coding = None
        if len(reply.body) >= self._connection.compress_from:
            coding = preferred_coding(self._context.headers)
        if coding is None:
            self._send(reply)
        else:
            self._compress(reply, coding)

    def cancel(self) -> None:
        """Drop the request, as its connection is lost."""
        if self._handle is None:
            return
        self._handle.cancel()
        self._handle = None
        if self._packing is not None:
            self._packing.cancel()
        self._context.status = CLIENT_CLOSED_REQUEST
        self._connection.application.end_request(self._context)

    def _compress(self, reply: Reply, coding: bytes) -> None:
        def send(packed: Future[bytes]) -> None:
            if not packed.cancelled():
                reply.take_compressed(packed.result(), coding)
                self._send(reply)

        self._packing = compressed(bytes(reply.body), coding)
        self._packing.add_done_callback(send)

    def _send(self, reply: Reply) -> None:
        self._handle = None
        self._context.status = reply.status_code
        if not self.transport.is_closing():
            self._connection.write_reply(self, reply)
        self._connection.application.end_request(self._context)
