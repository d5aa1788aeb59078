"""The check of a file of torch beside an ONNX graph: it is equal, and keeps the rows apart."""

from collections.abc import Sequence

from models.errors import AddError
from models.package.card import ModelCard, ParityRecord
from models.proofs.row_proof import RowsProof, prove_equal
from models.runtimes.rows_first import RowsFirst
from models.runtimes.runtime import Arrays, Runtime
from models.runtimes.torch_runtimes import TorchRuntime
from models.sources.importing import ForeignGraph, open_module
from models.sources.samples import Samples
from models.sources.source import TorchFile
from models.torch_graphs.script_harm import harm
from models.torch_graphs.script_mixing import script_mixing

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
        LeftOutError: the file is served only if it is proved like the graph, and is not; or it
            keeps what other requests may see, or may end the process.
    """
    try:
        opened = open_module(script.file, script.content, card, script.runtime)
        module = opened if card.is_rows_first else RowsFirst(opened, card.axes)
        if not script.required:  # the comparison takes longer
            _require_apart(script, opened, card, proof)
        compared = prove_equal(
            graph, script.file, module, samples, others, card.outputs,
            batched=proof.batched, half=half,
        )  # fmt: skip
    except AddError as error:
        if script.required:
            raise
        raise LeftOutError(f"The {script.title} is left out: {error}.") from error
    if script.required:
        _require_apart(script, opened, card, proof)
    return module, compared


def _require_apart(
    script: TorchFile, opened: TorchRuntime, card: ModelCard, proof: RowsProof
) -> None:
    """Check that rows are independent where those of the graph are, and requests always.

    Raises:
        LeftOutError: it is not proved.
    """
    reason: str | None = None
    if not card.is_rows_first:
        reason = "its code is followed for batches on the first axis only"
    else:
        reason = next(filter(None, (script_mixing(opened, rows) for rows in proof.batched)), None)
    if proof.batched and reason:
        raise LeftOutError(f"The {script.title} is left out, since {NOT_APART}: {reason}.")
    if harmful := harm(opened):
        raise LeftOutError(f"The {script.title} is left out: {harmful}.")
