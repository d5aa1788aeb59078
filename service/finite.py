"""An answer that is infinite or no number: whose fault it is."""

from models.card import ModelCard
from service.batching.batch import Arrays
from service.errors import BadInputError, ModelFaultError, ServiceError


def not_finite(card: ModelCard, inputs: Arrays, output: str) -> ServiceError:
    """What to tell the caller: the input's fault, unless all of it is what the card expects.

    Args:
        card: of the model that answered.
        inputs: what it was asked.
        output: which of its outputs holds infinity or NaN.
    """
    if all(spec.expects(inputs[spec.name]) for spec in card.inputs):
        return ModelFaultError(f"Model {card.name} answers with infinity or NaN in {output!r}.")
    return BadInputError(
        f"The output {output!r} of model {card.name!r} holds infinity or NaN for this input, which "
        "JSON does not have: send numbers nearer to those that it was fitted on, or ask for binary "
        "data at /v2."
    )
