"""Values that a network cannot take: outside the ranges of its card, or those that it fails on.

Each is answered with 400 and one sentence; whatever else a network fails on is answered with 500.
"""

import re
from collections.abc import Callable, Iterable

from models.card import ModelCard, TensorSpec
from models.runtimes import brief, example_mismatch
from models.text import escaped
from service.batching.batch import Arrays, fault
from service.errors import BadInputError, ServiceError
from service.paths import without_paths

LONGEST_REASON = 300
"""Characters of a runtime's message that a caller is told."""
MOST_READ = 4000

# ONNX Runtime's messages begin with the node, and some with a line and a function of its source.
_NODE = re.compile(r"^.*Status Message: ", re.DOTALL)
_SOURCE = re.compile(
    r"^\S+\.\w+:\d+ "
    r"(?:.*? was false\. |[^()]*::\w+\([^()]*\)(?: const)?(?: \[with [^\]]*\])? |\w+ )"
)


def check_ranges(card: ModelCard, specs: Iterable[TensorSpec], inputs: Arrays) -> None:
    """Check that every value lies in the range that its tensor must keep; NaN lies in none.

    Args:
        card: of the model.
        specs: of the inputs that have such a range.
        inputs: the arrays, by name.

    Raises:
        BadInputError: a value lies outside; the first one is told.
    """
    for spec in specs:
        if (value := spec.first_outside(inputs[spec.name])) is not None:
            raise BadInputError(
                f"The input {spec.name!r} holds {value!s}; model {card.name!r} takes {spec.range}."
            )


def judge(card: ModelCard, compute: Callable[[Arrays], Arrays], error: Exception) -> ServiceError:
    """Whose fault it is that one request, computed alone, made the runtime raise `error`.

    It is the caller's where the same runtime still computes the recorded example of the card right
    afterwards: then the network works, and the only difference is what the caller sent. It is ours
    where the example fails too, as after an error that leaves a GPU unusable. It is ours as well
    where the device is at fault, whatever the example does: the same input may be computed by
    another device, or a moment later. A lack of memory, a hang and a wrong number of rows are never
    brought here; the batcher knows them, and they are ours.

    Args:
        card: of the model.
        compute: the runtime that failed; it is used here, so call this on its thread.
        error: what it raised.
    """
    if _is_of_a_device(error):
        return fault(card.name, error)
    if (mismatch := example_mismatch(compute, card.example, card.outputs)) is not None:
        error.add_note(f"the recorded example fails on the same runtime: {mismatch}")
        return fault(card.name, error)
    refusal = BadInputError(f"Model {card.name!r} cannot compute this request: {_reason(error)}.")
    refusal.__cause__ = error
    return refusal


def _is_of_a_device(error: Exception) -> bool:
    told = f"{type(error).__name__}: {error}".lower()
    return any(word in told for word in ("cuda", "cudnn", "cublas", "epfail", "device-side"))


def _reason(error: Exception) -> str:
    """The runtime's message as part of a sentence: one line, bounded, without paths."""
    text = _SOURCE.sub("", _NODE.sub("", brief(error)[:MOST_READ]))
    text = escaped(without_paths(text)).removeprefix("RuntimeError: ").strip().rstrip(".")
    if not text:
        return type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
