"""The dialect of Vertex AI's custom containers: `instances` → `predictions`.

https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements

Vertex AI sets the port and the paths by the variables `AIP_HTTP_PORT`, `AIP_HEALTH_ROUTE` and
`AIP_PREDICT_ROUTE`. The rows and predictions are those of `/models/{model}/predict`.
"""

from models.package.card import ModelCard
from service.api.rows.dialects import PREDICTIONS, Dialect, RowsRequest, Written, to_json
from service.api.rows.predict import DIALECT as PREDICT
from service.api.rows.predictions import predictions
from service.batching.batch import Arrays


def _write(card: ModelCard, request: RowsRequest, outputs: Arrays) -> Written:
    return to_json(
        card, request, outputs, {"predictions": predictions(card, outputs, request.labels)}
    )


DIALECT = Dialect(
    name="vertex",
    endpoint="",  # the setting `vertex_predict_route`
    summary="A prediction of the default model, as Vertex AI asks for it.",
    read=PREDICT.read,
    write=_write,
    response=PREDICTIONS,
)
