"""KServe's V1 protocol and TensorFlow Serving's REST API, which share a path.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
https://www.tensorflow.org/tfx/serving/api_rest

`instances` are rows, answered by `predictions`; TensorFlow Serving's `inputs` are columns, the
tensors as the network has them, answered by `outputs`. The rows of an answer are those of the
network's outputs. `signature_name` and other fields are ignored, as a package has one signature.
"""

import numpy as np

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
from service.api.rows.predictions import columns_of, rows_of
from service.api.rows.requests import request_of_columns, request_of_rows
from service.batching.batch import Arrays
from service.json_body import Body

ROWS, COLUMNS = "instances", "inputs"


def read_rows_or_columns(card: ModelCard, body: Body, media: Media) -> RowsRequest:
    """Read `instances` or `inputs`."""
    content, booleans = json_object(body, media, ROWS, COLUMNS)
    if ROWS in content:
        return request_of_rows(card, content[ROWS], media, booleans=booleans, form=ROWS)
    columns = content[COLUMNS]
    read = request_of_columns if isinstance(columns, dict) else request_of_rows
    return read(card, columns, media, booleans=booleans, form=COLUMNS)


def _write(card: ModelCard, request: RowsRequest, outputs: Arrays) -> Written:
    if request.form == ROWS:
        rows = rows_of(card, outputs, request.tokens)
        return to_json(card, request, outputs, {"predictions": rows})
    if request.tokens:
        texts = columns_of(card, outputs, request.tokens)
        content = texts if len(texts) > 1 else next(iter(texts.values()))
        return to_json(card, request, outputs, {"outputs": content})
    outputs = card.axes.outputs_of_network(outputs)
    columns = {name: np.asarray(array, order="C")[()] for name, array in outputs.items()}
    whole = columns if len(card.outputs) > 1 else columns[card.outputs[0].name]
    return to_json(card, request, outputs, {"outputs": whole})


DIALECT = Dialect(
    name="v1",
    endpoint="/v1/models/{model}:predict",
    summary="A prediction by KServe's V1 protocol, or TensorFlow Serving's REST API.",
    read=read_rows_or_columns,
    write=_write,
    response=PREDICTIONS,
)
