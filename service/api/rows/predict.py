"""The service's own dialect: `{"instances": [...]}` → `{"model", "version", "predictions"}`."""

from models.package.card import ModelCard
from service.api.rows.dialects import (
    PREDICTIONS,
    Dialect,
    Media,
    RowsRequest,
    Written,
    json_object,
    to_json,
)
from service.api.rows.instances import require_rows_apart
from service.api.rows.pictures import FORM, form_inputs
from service.api.rows.predictions import asked_labels, predictions
from service.api.rows.requests import request_of_rows
from service.batching.batch import Arrays
from service.json_body import Body


def _read(card: ModelCard, body: Body, media: Media) -> RowsRequest:
    if media.content_type == FORM:
        inputs = form_inputs(card, body, media.header, media.max_pixels)
        require_rows_apart(card, len(next(iter(inputs.values()))))
        return RowsRequest(inputs)
    content, booleans = json_object(body, media, "instances")
    labels = asked_labels(card, content.get("parameters"))
    request = request_of_rows(card, content["instances"], media, booleans=booleans)
    return request._replace(labels=labels)


def _write(card: ModelCard, request: RowsRequest, outputs: Arrays) -> Written:
    content = {
        "model": card.name,
        "version": card.version,
        "predictions": predictions(card, outputs, request.labels, request.tokens),
    }
    return to_json(card, request, outputs, content)


DIALECT = Dialect(
    name="predict",
    endpoint="/models/{model}/predict",
    summary="Predictions in the model's own terms: rows in, labels, scores and numbers out.",
    read=_read,
    write=_write,
    response={"model": {"type": "string"}, "version": {"type": "string"}, **PREDICTIONS},
)
