"""The V2 handler on bare uvicorn: the same code as an ASGI application, without BentoML.

`uvicorn benchmarks.serving.bare_uvicorn:app --loop uvloop --http httptools`
"""

import gc

from starlette.types import Receive, Scope, Send

from service.api.state import ServiceState
from service.api.v2.routes import OpenInference
from service.http.app import App
from service.inference.registry import ModelRegistry
from service.processes.jobs import close_pool, start_pool
from service.settings import read_settings

settings = read_settings()
registry = ModelRegistry(settings)
protocol = OpenInference(ServiceState(registry))
inner = App(protocol, settings, mounts=[protocol])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Open the models at startup, close them at shutdown, and pass requests to the app."""
    if scope["type"] != "lifespan":
        await inner(scope, receive, send)
        return
    await receive()
    await registry.open()
    start_pool(settings)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as in the service
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await registry.close()
    await close_pool()
    await send({"type": "lifespan.shutdown.complete"})
