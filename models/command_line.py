"""The commands of `python -m models`, the command line of the model repository.

list | show | verify | add | remove | restore
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import get_args

import numpy as np

from models.adding.add import add
from models.adding.answer_options import add_answer_options, answer_of
from models.checking import check
from models.child_process import run_in_child
from models.errors import AddError
from models.interrupts import INTERRUPTED
from models.package.card import Task
from models.package.model_package import ModelPackage, PackageError
from models.package.readme import (
    batching_note,
    headline,
    largest_note,
    layout_note,
    render_page,
    text_note,
)
from models.package.repository import ModelRepository, RepositoryError, default_repository
from models.package.text import escaped
from models.progress import Progress
from models.proofs.padding_proof import parse_pad
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import one_line
from models.sources.exporting import as_files
from models.sources.max_length import parse_max_length
from models.sources.ranges import parse_range
from models.sources.stated_batch import Stated, parse_batch_axis, parse_shared, parse_split
from models.sources.table_files import read_table
from models.torch_graphs.script_mixing import require_rows_apart

BROKEN_PIPE = 141
COMPUTING = ("add", "check", "verify")
"""The commands that compute a network, which may end the process."""


def program() -> int:
    """Run the command of this process and return its exit code.

    The code is that of `main`, 130 after Ctrl-C, or 141 if the output's reader has closed the pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that the terminal lacks
            stream.reconfigure(errors="backslashreplace")
    computes = any(word in COMPUTING for word in sys.argv[1:])
    return run_in_child(_run) if computes else _run()


def _run() -> int:
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:
        sys.stderr.write(f"error: the output cannot be written ({error.strerror})\n")
        code = 1
    else:
        return code
    with Path(os.devnull).open("w") as nowhere:  # Python flushes its buffers when it exits
        os.dup2(nowhere.fileno(), 1)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
        0 for success, 1 if a package is missing or wrong. argparse exits with 2 on a wrong call.

    Raises:
        OSError: standard output cannot be written.
    """
    options = _parser().parse_args(arguments)
    repository = ModelRepository(options.repository)
    try:
        if options.command == "add":
            with np.errstate(all="ignore"):  # an AddError reports numbers that are not finite
                return _add(repository, options)
        if options.command in ("remove", "restore"):
            return _move(repository, options)
        if options.command == "show":
            card = _find(repository, options.name).card
            _say(card.model_dump_json(indent=1) if options.json else render_page(card).rstrip())
            return 0
        if options.command == "check":
            for line in check(_find(repository, options.name)):
                _say(line)
            return 0
        if not repository.names():
            sys.stderr.write(f"error: there is no package in {repository.root}\n")
            return 1
        if options.command == "list":
            return _list(repository)
        return _verify(repository, options.names)
    except (AddError, PackageError, RepositoryError) as error:
        sys.stderr.write(f"error: {escaped(str(error))}\n")
        return 1
    except ImportError as error:
        sys.stderr.write(f"error: {error.name} is not installed\n")
        return 1
    except MemoryError:
        sys.stderr.write(
            "error: its rows do not fit into the memory: give two small ones with --sample "
            "FILE.npz, or export the network with smaller shapes\n"
        )
        return 1
    except (OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # an added file may fail in nearly any way
        if options.command != "add":
            raise
        reason = escaped(f"{type(error).__name__}: {one_line(error)}")
        sys.stderr.write(f"error: the network cannot be added ({reason})\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_program_name(), description="List, show, verify, add and remove model packages."
    )
    _repository_option(parser, default_repository())
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("list", help="one line for each package")
    show = commands.add_parser("show", help="a package's card, as a page")
    show.add_argument("name", help="NAME or NAME/VERSION")
    show.add_argument("--json", action="store_true", help="the card itself")
    checked = commands.add_parser(
        "check", help="compute the recorded prediction, and show what a caller sends and gets"
    )
    checked.add_argument("name", help="NAME or NAME/VERSION")
    verify = commands.add_parser(
        "verify", help="check digests and graphs, and repeat the recorded predictions"
    )
    verify.add_argument("names", nargs="*", metavar="NAME", help="packages (default: all)")
    for command in (listed, show, checked, verify):
        _repository_option(command, argparse.SUPPRESS)  # the option may follow the command
    for name, description in (
        ("remove", "take a version out of service; the previous one serves after the next start"),
        ("restore", "put a removed version back into service"),
    ):
        command = commands.add_parser(name, help=description)
        command.add_argument("name", metavar="NAME", help="name of the package")
        command.add_argument(
            "version", metavar="VERSION", help="a whole number, as in NAME/VERSION"
        )
        _repository_option(command, argparse.SUPPRESS)

    added = commands.add_parser(
        "add",
        help="make a package from a network of any origin",
        usage=f"{_program_name()} add NAME SOURCE [options]",
    )
    added.add_argument("name", metavar="NAME", help="name of the package; it gets the next version")
    network = added.add_mutually_exclusive_group(required=True)
    network.add_argument(
        "source", metavar="SOURCE", nargs="?",
        help="a file: .onnx, TorchScript .pt, .pt2, .keras, .skops, XGBoost or LightGBM; a folder "
        "of Hugging Face; timm:NAME or torchvision:NAME; or path/net.py:make, or "
        "package.module:Class, which makes a network; its code runs",
    )  # fmt: skip
    network.add_argument("--onnx", dest="source", metavar="FILE", help="the same, an ONNX file")
    added.add_argument(
        "--weights", type=Path, metavar="FILE",
        help="the weights of a network that is made by code or named: a checkpoint of torch, or "
        "safetensors",
    )  # fmt: skip
    added.add_argument(
        "--input", action="append", default=[], metavar="NAME:TYPE[SIZES]", dest="inputs",
        help="an input of a network that is exported, as image:FP32[-1,3,224,224], in place of "
        "--sample; the batch is first, -1 means any size",
    )  # fmt: skip
    added.add_argument(
        "--torchscript", type=Path, metavar="FILE",
        help="the same network as TorchScript, checked to be equal; loading it runs its code",
    )  # fmt: skip
    added.add_argument(
        "--sample", type=Path, metavar="FILE.npz",
        help="two or more rows of every input, by name (default: random numbers); of a folder of "
        "Hugging Face for texts, a file with a text in each line",
    )  # fmt: skip
    added.add_argument(
        "--table", type=Path, metavar="COLUMNS.json",
        help="the columns of rows in the terms of callers, and what each becomes; --sample is then "
        "a file of such rows, .csv or .json",
    )  # fmt: skip
    added.add_argument(
        "--answers", type=Path, metavar="FILE.npz",
        help="with --table: what the network itself answers to the rows of --sample, by output",
    )  # fmt: skip
    added.add_argument(
        "--range", action="append", type=parse_range, default=[], metavar="INPUT=LOW:HIGH",
        dest="ranges",
        help="the values that an input takes, as tokens=0:49, or x=0: without an upper end; "
        "requests with other values are refused",
    )  # fmt: skip
    added.add_argument(
        "--max-length", action="append", type=parse_max_length, default=[], metavar="[NAME=]N",
        dest="max_lengths",
        help="the largest size of the free dimensions, or of the one called NAME in the graph, or "
        "INPUT.AXIS; larger requests are refused (default: found by doubling those of the sample)",
    )  # fmt: skip
    added.add_argument(
        "--pad", action="append", type=parse_pad, default=[], metavar="INPUT=VALUE", dest="pads",
        help="pad rows of unequal lengths with this value, as tokens=0, so that they share a "
        "batch; refused if a padded row gives something else than alone",
    )  # fmt: skip
    added.add_argument(
        "--mask", action="append", default=[], metavar="INPUT", dest="masks",
        help="an input that tells which places of a row are real; it is padded with 0",
    )  # fmt: skip
    added.add_argument(
        "--batch-axis", action="append", type=parse_batch_axis, default=[], metavar="INPUT=AXIS",
        dest="batch_axes",
        help="the axis of the batch in an input, as state=1 (default: found by trying)",
    )  # fmt: skip
    added.add_argument(
        "--shared", action="append", type=parse_shared, default=[], metavar="INPUT[=VALUE,...]",
        help="an input without a batch, as a sampling rate: only requests with equal values are "
        "batched, which is proved for these VALUEs too (default: found by trying)",
    )  # fmt: skip
    added.add_argument(
        "--no-batch", action="store_true",
        help="the network has no batch: each request is one computation",
    )  # fmt: skip
    added.add_argument(
        "--split-by", type=parse_split, metavar="OUTPUT[:COLUMN]",
        help="the output, or its column, that names the row of each entry, as detections:0, of a "
        "network whose entries are as many as the values say: its rows share batches, if each is "
        "proved to keep its own entries",
    )  # fmt: skip
    added.add_argument(
        "--label", nargs="+", action="extend", default=[], metavar="CLASS", dest="labels",
        help="the classes, in the order of the output's columns",
    )  # fmt: skip
    add_answer_options(added)
    added.add_argument(
        "--task", choices=get_args(Task),
        help="default: classification with labels or probabilities, else other",
    )  # fmt: skip
    added.add_argument("--summary", metavar="TEXT", help="what the network is, in a sentence")
    added.add_argument("--intended-use", metavar="TEXT", help="its purpose, in a sentence")
    added.add_argument("--written-to", type=Path, help=argparse.SUPPRESS)  # for fitserve.save
    _repository_option(added, argparse.SUPPRESS)
    return parser


def _repository_option(parser: argparse.ArgumentParser, default: Path | str) -> None:
    parser.add_argument(
        "--repository",
        type=Path,
        default=default,
        metavar="DIR",
        help="the folder of the packages (default: FITSERVE_MODEL_REPOSITORY, or the shipped ones)",
    )


def _program_name() -> str:
    """Return how the user called this program."""
    return "fitserve" if Path(sys.argv[0]).stem == "fitserve" else "python -m models"


def _add(repository: ModelRepository, options: argparse.Namespace) -> int:
    progress = Progress()
    table = None
    if options.table:
        table = read_table(options.table, options.sample, options.answers)
    elif options.answers:
        raise AddError("--answers is for the rows of a table: give its columns with --table")
    sample = None if table else options.sample
    with (
        closing(progress),
        as_files(
            options.source,
            weights=options.weights,
            sample=sample,
            inputs=options.inputs,
            max_tokens=next((one.size for one in options.max_lengths if one.name is None), None),
            table=table,
        ) as (source, exported),
    ):
        package = add(
            repository.root,
            options.name,
            source,
            torchscript=options.torchscript,
            sample=None if exported else sample,
            labels=options.labels,
            ranges=options.ranges,
            max_lengths=options.max_lengths,
            pads=options.pads,
            masks=options.masks,
            batch=Stated(
                dict(options.batch_axes),
                dict(options.shared),
                options.no_batch,
                options.split_by,
            ),
            answer=answer_of(options),
            table=table,
            task=options.task,
            summary=options.summary,
            intended_use=options.intended_use,
            progress=progress,
        )
    if options.written_to:
        options.written_to.write_text(str(package.path))
    _say(f"wrote {package.path}: {package.card.task}, {', '.join(package.card.runtimes)}")
    for kind, specs in (("in ", package.card.inputs), ("out", package.card.outputs)):
        for spec in specs:
            values = f", {spec.range}" if spec.enforced else ""
            _say(f"  {kind}  {spec.name}  {spec.to_text()}{values}")
    if layout := layout_note(package.card):
        _say(f"  batch: {layout}")
    rows = max(record.samples for record in package.card.parity)
    in_batches = any(max(record.batch_sizes) > 1 for record in package.card.parity)
    _say(f"  checks: {rows} rows, alone{' and in batches' if in_batches else ''}")
    if maxima := largest_note(package.card):
        _say(f"  largest sizes: {maxima}; larger requests are refused; --max-length changes it")
    if table_spec := package.card.table:
        for column in table_spec.columns:
            _say(f"  column  {column.name}  {column.to_text()}")
    if text := package.card.text:
        _say(f"  texts: at most {text.max_tokens} tokens, {text_note(package.card)}")
    if package.card.batching == "none":
        _say(f"  batching: none. {_limit(package, 'Each request is computed alone')}")
    elif note := batching_note(package.card):
        _say(f"  batching: {note}")
    if not package.card.optimized:
        _say("  optimizations: none, since ONNX Runtime computes other outputs with them")
    left_out = (
        "The TorchScript file is left",
        "The file of torch.export is left",
        "There is no To",
    )
    if reason := _limit(package, *left_out):
        _say(f"  torch: {reason}")
    return 0


def _limit(package: ModelPackage, *beginnings: str) -> str:
    """Return the first limit in the card that begins so; empty if none does."""
    return next((limit for limit in package.card.limits if limit.startswith(beginnings)), "")


def _move(repository: ModelRepository, options: argparse.Namespace) -> int:
    label = f"{options.name}/{options.version}"
    if options.command == "remove":
        repository.remove(options.name, options.version)
        done = f"removed {label}"
    else:
        repository.restore(options.name, options.version)
        done = f"restored {label}"
    versions = repository.versions(options.name)
    serves = f"{options.name}/{versions[-1]}" if versions else f"no version of {options.name}"
    _say(f"{done}; {serves} serves after the next start of the service")
    return 0


def _list(repository: ModelRepository) -> int:
    entries = dict(repository)
    width = max(map(len, entries), default=0)
    for label, package in entries.items():
        if isinstance(package, PackageError):
            _say(f"{label:{width}}  refused: {package}")
        else:
            notes = filter(None, (headline(package.card), batching_note(package.card)))
            _say(f"{label:{width}}  {'; '.join(notes)}")
    return 1 if any(isinstance(package, PackageError) for package in entries.values()) else 0


def _verify(repository: ModelRepository, names: Sequence[str]) -> int:
    entries = _named(repository, names) if names else dict(repository)
    wrong = 0
    for label, package in entries.items():
        try:
            if isinstance(package, PackageError):
                raise package
            package.verify()
            for runtime in package.card.runtimes:
                require_rows_apart(package, open_runtime(package, runtime))
        except PackageError as error:
            wrong += 1
            _say(f"refused  {error}")
        except ImportError as error:
            wrong += 1
            _say(f"untried  {label}: {error.name} is not installed")
        except Exception as error:  # noqa: BLE001 - the other packages are still verified
            wrong += 1
            _say(f"refused  package {label}: it cannot be verified ({one_line(error)})")
        else:
            _say(f"right    {package.label}: {', '.join(package.card.runtimes)}")
    return 1 if wrong else 0


def _named(
    repository: ModelRepository, names: Sequence[str]
) -> dict[str, ModelPackage | PackageError]:
    """Return the packages of these names, or the error of each that is broken or missing."""
    entries: dict[str, ModelPackage | PackageError] = {}
    for name in names:
        try:
            entries[name] = _find(repository, name)
        except PackageError as error:
            entries[name] = error
    return entries


def _find(repository: ModelRepository, name: str) -> ModelPackage:
    base, _, version = name.partition("/")
    return repository.get(base, version or None)


def _say(text: str) -> None:
    """Print a text, with the control characters of the terminal escaped."""
    sys.stdout.write("\n".join(map(escaped, text.split("\n"))) + "\n")
