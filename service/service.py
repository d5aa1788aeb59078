"""The service: its endpoints, and its life from start-up to draining."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import bentoml
import numpy as np
from numpy.typing import NDArray

from models.card import TensorSpec
from models.signature import require_signing
from service.batching.batch import Arrays
from service.catalog import Catalog
from service.errors import BadInputError
from service.finite import not_finite
from service.http.access import Access
from service.http.endpoint import Responder, typed
from service.http.front import Front
from service.http.host import stand_before
from service.http.json_errors import JsonErrors
from service.http.openapi import openapi_of
from service.http.pages import create_pages
from service.http.supervisor import supervise
from service.images import mnist_pixels
from service.inputs import CurveInput, DigitsInput, PicturesInput, PointsInput
from service.open_inference.routes import OpenInference
from service.outputs import Curve, DigitPrediction, Digits, Pictures, Points
from service.predictor import Predictor
from service.pulse import Pulse
from service.rounding import seven_digits
from service.settings import VERSION, current_settings
from service.telemetry.logs import logger, set_up_log
from service.telemetry.tracing import otlp_exporter

IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, 28, 28), meaning="pixels")
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 1), meaning="where")
POINT = TensorSpec(name="point", datatype="FP32", shape=(-1, 2), meaning="coordinates")

pages = create_pages()
protocol = OpenInference()
typed_responders: dict[str, Responder] = {}

set_up_log(current_settings().log_format)


@bentoml.service(
    name="fitserve",
    # The front counts and logs at a hundredth of the cost.
    metrics={"enabled": False},
    # Who asks for no key is not to be asked by strangers. `--host` says otherwise.
    http={"host": "127.0.0.1" if current_settings().api_keys_file is None else "0.0.0.0"},  # noqa: S104
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(pages, path="/")
class FitServe:
    """Digits, curves and points, answered by trained networks.

    The pixels of a digit, a picture of one, places on a curve, or points in the plane come in;
    every model of the repository answers, many requests in one batch.
    """

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Refuse a setting that cannot be used before any worker starts."""
        settings = current_settings()
        Access(settings)
        if settings.api_keys_file is None:
            logger.warning(
                "no FITSERVE_API_KEYS_FILE: whoever reaches this address is let in, which is from "
                "this machine alone unless --host says otherwise"
            )
        if settings.package_key is not None:
            require_signing()
        if settings.traces:
            otlp_exporter()

    @bentoml.on_startup
    async def start(self) -> None:
        """Load every model; until that is over the service is not ready."""
        settings = current_settings()
        self.catalog = Catalog(settings)
        self.pulse = Pulse(self.catalog, settings)
        # One at a time: a small file may hold a picture of hundreds of megabytes.
        self.decoder = ThreadPoolExecutor(1, "pictures")
        pages.state.catalog = protocol.catalog = self.catalog
        pages.state.openapi = openapi_of(FitServe, "fitserve", VERSION)
        typed_responders.update(_responders(FitServe, self))
        await self.catalog.open(bentoml.server_context.worker_index or 1)
        self.pulse.start()
        # What is there now stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Answer what is queued."""
        await self.catalog.close()
        self.pulse.stop()  # until then it gives up what hangs
        self.decoder.shutdown(wait=False, cancel_futures=True)

    async def __is_ready__(self) -> bool:
        """Whether `/readyz` answers 200: a model is verified, warm and served; no GPU is lost."""
        return self.catalog.ready

    async def __is_alive__(self) -> bool:
        """Whether `/livez` answers 200; if it does not, only a restart helps."""
        return self.catalog.alive

    @bentoml.api(input_spec=DigitsInput)
    @typed
    async def classify_digits(self, images: NDArray[np.uint8], model: str) -> Digits:
        """Classify images in MNIST's framing."""
        predictor = self.catalog.taking(model, IMAGE)
        return {
            "model": predictor.card.name,
            "version": predictor.card.version,
            "predictions": await _digits(predictor, images),
        }

    @bentoml.api(input_spec=PicturesInput)
    @typed
    async def classify_image(self, images: list[bytes], model: str) -> Pictures:
        """Classify pictures of one digit each, of any size and colour.

        `curl -F images=@digit.png localhost:3000/classify_image`
        """
        predictor = self.catalog.taking(model, IMAGE)
        decode = partial(mnist_pixels, max_pixels=current_settings().max_image_pixels)
        loop = asyncio.get_running_loop()
        pixels = np.stack(
            [await loop.run_in_executor(self.decoder, decode, file) for file in images]
        )
        answers = await _digits(predictor, pixels)
        return {
            "model": predictor.card.name,
            "version": predictor.card.version,
            "predictions": [
                {**answer, "pixels": seen.tolist()}
                for answer, seen in zip(answers, pixels, strict=True)
            ],
        }

    @bentoml.api(input_spec=CurveInput)
    @typed
    async def predict_curve(self, x: NDArray[np.float32], model: str) -> Curve:
        """Evaluate a fitted curve."""
        predictor = self.catalog.taking(model, X)
        y = await _finite(predictor, {"x": x}, "y")
        return {
            "model": predictor.card.name,
            "version": predictor.card.version,
            "y": seven_digits(y[:, 0]),
        }

    @bentoml.api(input_spec=PointsInput)
    @typed
    async def classify_points(self, points: NDArray[np.float32], model: str) -> Points:
        """Classify points in the plane."""
        predictor = self.catalog.taking(model, POINT)
        classes = await _classes(predictor, {"point": points})
        labels = predictor.card.outputs[0].labels
        return {
            "model": predictor.card.name,
            "version": predictor.card.version,
            "predictions": [
                {
                    "label": labels[index] if labels else str(index),
                    "confidence": max(probabilities),
                    "probabilities": probabilities,
                }
                for index, probabilities in classes
            ],
        }


stand_before(
    FitServe,
    lambda host: Front(
        JsonErrors(host), protocol, current_settings(), typed_responders, JsonErrors(pages)
    ),
)
supervise()


def _responders(service: Any, instance: FitServe) -> dict[str, Responder]:
    """Who answers a whole body, by path: the endpoints that take JSON. A form needs a request."""
    return {
        api.route: api.input_spec.responder(partial(api.func, instance))
        for api in service.apis.values()
        if api.input_spec is not PicturesInput
    }


async def _digits(predictor: Predictor, images: NDArray[np.uint8]) -> list[DigitPrediction]:
    """The digit of each image, uint8 [N, 28, 28]."""
    return [
        {"digit": digit, "confidence": max(probabilities), "probabilities": probabilities}
        for digit, probabilities in await _classes(predictor, {"image": images})
    ]


async def _classes(predictor: Predictor, inputs: Arrays) -> list[tuple[int, list[float]]]:
    """The most probable class of each row, and the probabilities of all classes."""
    probabilities = await _finite(predictor, inputs, "probabilities")
    # Not seven digits of each: what is below a ten-millionth is as good as impossible.
    shown = probabilities.astype(np.float64).round(7).tolist()
    return list(zip(probabilities.argmax(axis=1).tolist(), shown, strict=True))


async def _finite(predictor: Predictor, inputs: Arrays, output: str) -> NDArray[np.float32]:
    """One output of a prediction.

    Raises:
        ServiceError: it is infinite or no number; or the model gives no such output.
    """
    values = (await predictor.predict(inputs)).outputs.get(output)
    if values is None or values.ndim != 2:  # a network of another origin may take the same input
        raise BadInputError(
            f"Model {predictor.card.name!r} gives no {output} in rows; "
            f"ask it at /v2/models/{predictor.card.name}/infer."
        )
    if not np.isfinite(values).all():
        raise not_finite(predictor.card, inputs, output)
    return values
