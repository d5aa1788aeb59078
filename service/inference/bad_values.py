"""Values that a network cannot compute: outside the ranges of its card, or refused by its runtime.

They get a 400 with a sentence; other failures of a network get a 500.
"""

import re
from collections.abc import Callable, Iterable

from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from models.package.text import escaped
from models.runtimes.arena import MemoryLimitError
from models.runtimes.loading import example_mismatch
from models.runtimes.runtime import one_line
from service.batching.batch import Arrays, fault
from service.errors import (
    BadInputError,
    BodyTooLargeError,
    ComputeMemoryError,
    ModelFaultError,
    ServiceError,
)
from service.inference.paths import without_paths

LONGEST_REASON = 300
"""Characters of a runtime's message that a caller gets."""
MAX_READ = 4000

# ONNX Runtime's messages begin with the node, some with a line and function of its source.
_NODE = re.compile(r"^.*Status Message: ", re.DOTALL)
_SOURCE = re.compile(
    r"^\S+\.\w+:\d+ "
    r"(?:.*? was false\. |[^()]*::\w+\([^()]*\)(?: const)?(?: \[with [^\]]*\])? |\w+ )"
)


def check_ranges(card: ModelCard, specs: Iterable[TensorSpec], inputs: Arrays) -> None:
    """Check that every value lies in the range of its tensor; NaN lies in none.

    Args:
        card: of the model.
        specs: of the inputs that have a range.
        inputs: the arrays, by name.

    Raises:
        BadInputError: a value lies outside; the message names the first.
    """
    for spec in specs:
        if (value := spec.first_outside(inputs[spec.name])) is not None:
            raise BadInputError(
                f"The input {spec.name!r} holds {value!s}; model {card.name!r} takes {spec.range}."
            )


def not_finite(card: ModelCard, inputs: Arrays, output: str) -> ServiceError:
    """Return the error for infinity or NaN in an output.

    The model is at fault if every input is as the card expects, otherwise the request.

    Args:
        card: of the model.
        inputs: of the request.
        output: the name of the output.
    """
    if all(spec.expects(inputs[spec.name]) for spec in card.inputs):
        return ModelFaultError(f"Model {card.name} returns infinity or NaN in {output!r}.")
    return BadInputError(
        f"The output {output!r} of model {card.name!r} holds infinity or NaN for this input, which "
        "JSON does not have: send numbers nearer to those that it was fitted on, or ask for binary "
        "data at /v2."
    )


def judge(card: ModelCard, compute: Callable[[Arrays], Arrays], error: Exception) -> ServiceError:
    """Return the error for a request, computed alone, on which the runtime raised `error`.

    The request is at fault if the same runtime computes the recorded example of the card right
    afterwards: then the network works, and only the values of the request differ. The service is at
    fault if the example fails too, as after an error that makes a GPU unusable. The service is also
    at fault if the device failed, whatever the example does: another device, or the same one later,
    may compute the same input. A request that does not fit into the limited memory for computations
    is refused, with 413 if it was computed alone and so will not fit later either, else with 503.
    The batcher handles a hang and a wrong number of rows itself, as faults of the service.

    Args:
        card: of the model.
        compute: the runtime that failed; it is called here, so call this on its thread.
        error: the exception of the runtime.
    """
    if isinstance(error, MemoryLimitError):
        return _over_limit(card, error)
    if isinstance(error, MemoryError) or _is_device_error(error):
        return fault(card.name, error)
    if (mismatch := example_mismatch(compute, card.example, card.outputs)) is not None:
        error.add_note(f"the recorded example fails on the same runtime: {mismatch}")
        return fault(card.name, error)
    refusal = BadInputError(f"Model {card.name!r} cannot compute this request: {_reason(error)}.")
    # The traceback would keep the request's rows alive until the garbage collector runs.
    refusal.__cause__ = error.with_traceback(None)
    return refusal


def _over_limit(card: ModelCard, error: MemoryLimitError) -> ServiceError:
    limit = f"the {error.limit_bytes // 2**20:,} MiB of FITSERVE_MAX_COMPUTE_BYTES"
    if error.is_alone:
        return BodyTooLargeError(
            f"Model {card.name!r} needs more memory for this request than {limit}: send fewer or "
            "smaller rows."
        )
    return ComputeMemoryError(
        f"Model {card.name!r} needs more memory for this request than other requests leave of "
        f"{limit}: try again later, or send fewer or smaller rows."
    )


def _is_device_error(error: Exception) -> bool:
    text = f"{type(error).__name__}: {error}".lower()
    return any(word in text for word in ("cuda", "cudnn", "cublas", "epfail", "device-side"))


def _reason(error: Exception) -> str:
    """Return the runtime's message as part of a sentence: one line, bounded, without paths."""
    text = _SOURCE.sub("", _NODE.sub("", one_line(error)[:MAX_READ]))
    text = escaped(without_paths(text)).removeprefix("RuntimeError: ").strip().rstrip(".")
    if not text:
        return type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
