"""The V2 handler on bare uvicorn: what the same code reaches without a host around it.

`uvicorn benchmarks.serving.bare:app --loop uvloop --http httptools`
"""

import gc

from starlette.types import Receive, Scope, Send

from service.catalog import Catalog
from service.open_inference.routes import OpenInference
from service.settings import current_settings

protocol = OpenInference()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Open the catalog at start-up, close it at the end, and leave the rest to the protocol."""
    if scope["type"] != "lifespan":
        await protocol(scope, receive, send)
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
