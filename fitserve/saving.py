"""`fitserve.save`: a trained network becomes a package that is served."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fitserve.columns import export_table
from fitserve.doors import door_of, is_of, torch_module
from fitserve.exported import Exported, ExportError, environment
from fitserve.pictures import export_pictures, is_pictures
from fitserve.texts import export_texts
from fitserve.transforms import is_timm


class SaveError(ExportError):
    """A network that was exported, and cannot be served. The message says what to change."""


def save(
    name: str,
    network: Any,
    sample: Any = None,
    *,
    labels: Sequence[str] = (),
    batch_axis: Mapping[str, int | None] = MappingProxyType({}),
    picture: Any = None,
    tokenizer: Any = None,
    table: Sequence[Mapping[str, Any]] = (),
    transform: Callable[[Any], Any] | None = None,
    repository: str | os.PathLike[str] | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Export a trained network, check it, and write it as the next version of a package.

    The network is exported in this process, in eval mode, and left as it was. What it computes for
    the sample is recorded. The checks run in another process: the exported files compute the same
    as the network, and the result of a row does not depend on the other rows of its batch.

    Args:
        name: of the package: letters, digits, `-` and `_`.
        network: a `torch.nn.Module`, an `ExportedProgram`, a `ScriptModule`, an estimator or
            pipeline of scikit-learn, a model of XGBoost, LightGBM or Keras.
        sample: rows that the network takes, the batch first: an array or tensor, or a mapping of
            the names of several inputs to arrays or tensors. A list holds several samples:
            dimensions whose sizes differ between them are free. For scikit-learn, also a data
            frame, a mapping of names to columns, or a list of texts. A program of torch.export and
            a model of Keras need none.
        labels: the classes, in the order of the output's columns. Classifiers of scikit-learn,
            XGBoost and LightGBM that know their classes need none.
        batch_axis: for a torch module whose inputs do not all have the batch first: the axis of the
            batch by the name of the input, as {"state": 1}; None for a value that all rows share.
        picture: for a torch module that takes pictures: the steps from a picture to its input, as a
            `fitserve.Picture`, torchvision's `weights.transforms()`, or an image processor of
            Transformers. The sample is then pictures of Pillow, or left out; callers send files or
            base64. A model of timm states its own steps.
        tokenizer: for a torch module that takes texts: a fast tokenizer of Transformers. The sample
            is then a list of texts, or left out; callers send texts.
        table: for a network of any library whose callers send rows with named columns: the columns
            in the order of the network's inputs, as {"name": "carrier", "type": "category",
            "categories": ["AA", "UA"], "input": "codes"}. `docs/bring-your-own.md` lists the
            fields. The sample is then a data frame, a mapping of names to columns, or a list of
            rows, in the terms of callers.
        transform: the training library's own steps: from a picture to a tensor [channels, H, W], or
            from the sample of a table to arrays by input. What is declared must give the same.
        repository: the folder of the packages; by default FITSERVE_MODEL_REPOSITORY, or the one
            that is shipped.
        options: further options of `fitserve add`, as ("--range", "tokens=0:49").

    Returns:
        The folder of the package.

    Raises:
        ExportError: the network cannot be exported.
        SaveError: the exported network cannot be served.
    """
    classes = [str(label) for label in labels]

    def exported() -> Exported:
        if table:
            return export_table(network, sample, table, transform, classes)
        return _export(network, sample, classes, batch_axis, picture, tokenizer, transform)

    with tempfile.TemporaryDirectory(prefix="fitserve-") as folder:
        # Not kept: the files may be as large as the network, and the checks need memory, too.
        exported().write(Path(folder))
        written = Path(folder, "written")
        command = [sys.executable, "-P", "-m", "fitserve", "add", name, folder, *options]
        command += ["--written-to", str(written), *_axis_options(batch_axis)]
        if repository is not None:
            command += ["--repository", os.fspath(repository)]
        result = subprocess.run(command, env=environment(), capture_output=True, text=True)  # noqa: S603
        if result.returncode:
            raise SaveError(result.stderr.strip().removeprefix("error: "))
        sys.stdout.write(result.stdout)
        return Path(written.read_text())


def _axis_options(batch_axis: Mapping[str, int | None]) -> list[str]:
    """Return the options of `fitserve add` for the axes that are not the first."""
    options = []
    for name, axis in batch_axis.items():
        if axis is None:
            options += ["--shared", name]
        elif axis:
            options += ["--batch-axis", f"{name}={axis}"]
    return options


def _export(
    network: Any,
    sample: Any,
    labels: list[str],
    batch_axis: Mapping[str, int | None],
    picture: Any,
    tokenizer: Any,
    transform: Any,
) -> Exported:
    """Return the network as files, by the kind of what callers send."""
    if tokenizer is not None:
        return export_texts(network, tokenizer, sample, labels)
    if picture is None and is_timm(network) and (sample is None or is_pictures(sample)):
        picture = network
    if picture is not None:
        return export_pictures(network, sample, picture, transform, labels)
    is_texts = isinstance(sample, list) and all(isinstance(one, str) for one in sample)
    if is_texts and is_of(network, "sklearn"):
        sample = tuple(sample)
    if isinstance(sample, list):
        _require_samples(sample)
    samples = sample if isinstance(sample, list) else [] if sample is None else [sample]
    found = door_of(network)
    if not batch_axis:
        return found.export(network, samples, labels)
    if not torch_module.takes(network):
        raise ExportError(
            f"batch_axis is for a torch.nn.Module, and the network is a {found.SHOWN}, which has "
            "the batch first: omit it"
        )
    return torch_module.export(network, samples, labels, batch_axis)


def _require_samples(samples: list[Any]) -> None:
    """Check that a list holds samples, and not rows or their numbers.

    Raises:
        ExportError: it does not.
    """
    for one in samples:
        if isinstance(one, (list, str, bytes, int, float)):
            raise ExportError(
                f"the sample is a list that holds a {type(one).__name__}, and a list holds several "
                "samples: give the rows as an array, sample=numpy.array(rows)"
            )
