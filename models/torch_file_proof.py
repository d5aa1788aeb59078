"""The check of a file of torch beside an ONNX graph: it is equal, and keeps the rows apart."""

from collections.abc import Sequence

from models.card import ModelCard, ParityRecord
from models.importing import AddError, ForeignGraph, open_module
from models.proofs import RowsProof, prove_equal
from models.rows_first import RowsFirst
from models.runtimes import Arrays, Runtime
from models.samples import Samples
from models.script_mixing import script_mixing
from models.sources import TorchFile
from models.torch_runtimes import TorchRuntime

NOT_APART = "it is not proved that a row's answer does not depend on the rows beside it"


class LeftOutError(Exception):
    """A file of torch that is left out of the package. The message is a sentence."""


def equal_module(
    graph: ForeignGraph,
    script: TorchFile,
    card: ModelCard,
    samples: Samples,
    others: Sequence[Arrays],
    proof: RowsProof,
    *,
    half: float,
) -> tuple[Runtime, tuple[ParityRecord, ...]]:
    """Return the opened file of torch, which equals the graph, with the differences.

    Raises:
        AddError: a file that is required differs.
        LeftOutError: the file is served only if it is proved like the graph, and is not.
    """
    try:
        opened = open_module(script.file, script.content, card, script.runtime)
        module = opened if card.is_rows_first else RowsFirst(opened, card.axes)
        if not script.required:  # the comparison takes longer
            _require_rows_apart(script, module, proof)
        compared = prove_equal(
            graph, script.file, module, samples, others, card.outputs,
            batched=proof.batched, half=half,
        )  # fmt: skip
    except AddError as error:
        if script.required:
            raise
        raise LeftOutError(f"The {script.title} is left out: {error}.") from error
    if script.required:
        _require_rows_apart(script, module, proof)
    return module, compared


def _require_rows_apart(script: TorchFile, module: Runtime, proof: RowsProof) -> None:
    """Check that the rows of a file of torch are independent where those of the graph are.

    Raises:
        LeftOutError: it is not proved.
    """
    reason: str | None = None
    if not isinstance(module, TorchRuntime):
        reason = "its code is followed for batches on the first axis only"
    else:
        reason = next(filter(None, (script_mixing(module, rows) for rows in proof.batched)), None)
    if proof.batched and reason:
        raise LeftOutError(f"The {script.title} is left out, since {NOT_APART}: {reason}.")
