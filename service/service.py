"""The BentoML service: its endpoints and life cycle."""

import asyncio
import gc
import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import bentoml
import numpy as np
from numpy.typing import NDArray

from models.kinds.tensor_spec import TensorSpec
from models.package.interfaces import IMAGE, POINT, X
from models.package.signature import require_signing
from service.api.openapi.description import openapi_of
from service.api.pages import create_pages
from service.api.rows.routes import Rows
from service.api.state import ServiceState
from service.api.static_pages import public_paths
from service.api.typed import responses
from service.api.typed.images import mnist_pixels
from service.api.typed.requests import CurveInput, DigitsInput, PicturesInput, PointsInput
from service.api.typed.responses import Curve, Digits, Pictures, Points
from service.api.v2.routes import OpenInference
from service.batching.batch import Arrays
from service.errors import BadInputError, LoadingError
from service.http.app import App
from service.http.auth import ApiKeyAuth
from service.http.error_middleware import ErrorMiddleware
from service.http.responses import Responder, typed
from service.inference.bad_values import not_finite
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.inference.watchdog import EX_SOFTWARE, Watchdog
from service.json_body import Body
from service.memory import return_large_blocks
from service.processes.jobs import close_pool, run_job, start_pool, whole, within_timeout
from service.settings import RENAMED_WARNINGS, VERSION, read_settings
from service.telemetry.logs import logger, set_up_log
from service.telemetry.request_context import current_request
from service.telemetry.tracing import otlp_exporter
from service.transport.bentoml_adapter import wrap_service
from service.transport.rolling_restart import (
    is_first,
    let_others_serve,
    report_loaded,
    wait_for_the_first,
)
from service.transport.supervisor import supervise

Response = TypeVar("Response")

settings = read_settings()
"""Read here, as BentoML needs the address at the import; everything below gets an argument."""

DEFAULT_PORT = 3000

set_up_log(settings.log_format)

JOB_MODULES = (
    "service.api.rows.routes",
    "service.api.typed.fields",
    "service.api.typed.forms",
    "service.api.typed.images",
    "service.api.typed.responses",
    "service.api.v2.codec",
)
"""The modules of the functions that run in other processes."""

state = ServiceState(ModelRegistry(settings))
pages = create_pages(state)


@bentoml.service(
    name="fitserve",
    # The app counts and logs at a hundredth of the cost.
    metrics={"enabled": False},
    # Without a key file, anyone who can reach the port may call the service, so it binds to
    # loopback.
    http={
        "host": "127.0.0.1" if settings.api_keys_file is None else "0.0.0.0",  # noqa: S104
        "port": settings.vertex_port or DEFAULT_PORT,
    },
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(pages, path="/")
class FitServe:
    """Digits, curves and points, predicted by trained networks.

    The inputs are pixels of a digit, pictures of one, x values of a curve, or points in the plane.
    Every model of the repository serves, and requests are computed in batches.
    """

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Refuse invalid settings before any worker starts."""
        for warning in RENAMED_WARNINGS:
            logger.warning("%s", warning)
        ApiKeyAuth(settings)
        if settings.api_keys_file is None:
            logger.warning(
                "no FITSERVE_API_KEYS_FILE: anyone who can reach this address may call the "
                "service, which listens on this machine only unless --host says otherwise"
            )
        if settings.package_public_key is not None:
            require_signing()
        if settings.trace_sample_ratio:
            otlp_exporter()

    @bentoml.on_startup
    async def start(self) -> None:
        """Begin to load the models; the service is not ready until all are loaded."""
        return_large_blocks()
        self.registry = state.registry
        self.watchdog = Watchdog(self.registry, settings)
        state.openapi = openapi_of(FitServe, "fitserve", VERSION)
        state.responders.update(_responders(FitServe, self))
        start_pool(settings, JOB_MODULES)
        self.watchdog.start()
        worker_index = bentoml.server_context.worker_index or 1
        first = is_first(worker_index)
        self.loading = asyncio.create_task(self.load(worker_index))
        if first:
            self.loading.add_done_callback(_end_after_failure)
            return
        await self.loading
        await (wait_for_the_first() if self.registry.ready else let_others_serve())

    async def load(self, worker_index: int) -> None:
        """Load the models, and report when they are loaded."""
        gc.freeze()  # the collector need not traverse what was imported while models are loaded
        await self.registry.open(worker_index)
        self.watchdog.watch_devices()
        report_loaded(ready=self.registry.ready)
        # The objects that exist now are permanent, so the collector need not traverse them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Finish the queued requests, and stop."""
        self.loading.cancel()
        await self.registry.close()
        self.watchdog.stop()  # it abandons computes that hang until then
        await close_pool()

    async def __is_ready__(self) -> bool:
        """Return whether `/readyz` responds 200: all are loaded, one serves, no GPU is lost."""
        if self.registry.is_loading:
            current_request().reason = LoadingError.reason
        return self.registry.ready

    async def __is_alive__(self) -> bool:
        """Return whether `/livez` responds 200; if not, only a restart helps."""
        return self.registry.alive

    async def _predictor(self, model: str, spec: TensorSpec) -> Predictor:
        """Return a model as `ModelRegistry.accepting` does, once it is loaded."""
        await self.registry.wait_until_loaded(model)
        return self.registry.accepting(model, spec)

    @bentoml.api(input_spec=DigitsInput)
    @typed
    async def classify_digits(self, images: NDArray[np.uint8], model: str) -> Digits:
        """Classify images in MNIST's framing."""
        predictor = await self._predictor(model, IMAGE)
        probabilities = await _finite(predictor, {"image": images}, "probabilities")
        return await _written(responses.digits, predictor, probabilities)

    @bentoml.api(input_spec=PicturesInput)
    @typed
    async def classify_image(self, images: list[Body], model: str) -> Pictures:
        """Classify pictures of one digit each, of any size and colour.

        `curl -F images=@digit.png localhost:3000/classify_image`
        """
        predictor = await self._predictor(model, IMAGE)
        caller, max_pixels = current_request().caller, settings.max_image_pixels
        async with within_timeout(settings.timeout_seconds):
            decoded = [
                await run_job(caller, mnist_pixels, whole(file), max_pixels=max_pixels)
                for file in images
            ]
        pixels = np.stack(decoded)
        probabilities = await _finite(predictor, {"image": pixels}, "probabilities")
        return await _written(responses.pictures, predictor, probabilities, pixels)

    @bentoml.api(input_spec=CurveInput)
    @typed
    async def predict_curve(self, x: NDArray[np.float32], model: str) -> Curve:
        """Evaluate a fitted curve."""
        predictor = await self._predictor(model, X)
        return await _written(responses.curve, predictor, await _finite(predictor, {"x": x}, "y"))

    @bentoml.api(input_spec=PointsInput)
    @typed
    async def classify_points(self, points: NDArray[np.float32], model: str) -> Points:
        """Classify points in the plane."""
        predictor = await self._predictor(model, POINT)
        probabilities = await _finite(predictor, {"point": points}, "probabilities")
        labels = predictor.card.outputs[0].labels
        return await _written(responses.points, predictor, probabilities, labels)


wrap_service(
    FitServe,
    lambda inner_app: App(
        ErrorMiddleware(inner_app),
        settings,
        mounts=[OpenInference(state), Rows(state, settings)],
        typed=state.responders,
        index_page=ErrorMiddleware(pages),
        public_paths=public_paths(),
    ),
    settings,
)
supervise(settings)


def _end_after_failure(loading: asyncio.Task[None]) -> None:
    """End a worker that serves already if its models cannot be loaded; the supervisor restarts it.

    An error of one package makes this package unavailable. This is an error of all, such as a hung
    driver.
    """
    if not loading.cancelled() and (error := loading.exception()) is not None:
        logger.critical("this worker ends, as it cannot load models: %s", error, exc_info=error)
        os._exit(EX_SOFTWARE)


def _responders(service: Any, instance: FitServe) -> dict[str, Responder]:
    """Return the responders of the typed endpoints that take JSON, by path. Forms have none."""
    return {
        api.route: api.input_spec.responder(api.route, partial(api.func, instance))
        for api in service.apis.values()
        if api.input_spec is not PicturesInput
    }


async def _written(
    response: Callable[..., Response], predictor: Predictor, *values: Any
) -> Response:
    """Return a response for the outputs of a model; `typed` sends its JSON as well."""
    card = predictor.card
    content = await responses.written(
        current_request().caller, response, card.name, card.version, *values
    )
    return cast(Response, content)  # BentoML describes the endpoints by their return types


async def _finite(predictor: Predictor, inputs: Arrays, output: str) -> NDArray[np.float32]:
    """Return one output of a prediction.

    Raises:
        ServiceError: the output is missing, or holds infinity or NaN.
    """
    values = (await predictor.predict(inputs)).outputs.get(output)
    if values is None or values.ndim != 2:  # an added network may take the same input
        raise BadInputError(
            f"Model {predictor.card.name!r} has no output {output} in rows; "
            f"call /v2/models/{predictor.card.name}/infer."
        )
    if not np.isfinite(values).all():
        raise not_finite(predictor.card, inputs, output)
    return values
