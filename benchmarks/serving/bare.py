"""The V2 handler on bare uvicorn: the same code as an ASGI application, with no host around it.

`uvicorn benchmarks.serving.bare:app --loop uvloop --http httptools`
"""

import gc

from starlette.types import Receive, Scope, Send

from service.catalog import Catalog
from service.http.front import Front
from service.open_inference.routes import OpenInference
from service.settings import current_settings

protocol = OpenInference()
front = Front(protocol, protocol, current_settings())


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Open the catalog at start-up, close it at the end, and leave the rest to the front."""
    if scope["type"] != "lifespan":
        await front(scope, receive, send)
        return
    await receive()
    protocol.catalog = Catalog(current_settings())
    await protocol.catalog.open()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as in the service
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await protocol.catalog.close()
    await send({"type": "lifespan.shutdown.complete"})
