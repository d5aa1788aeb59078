"""The program that exports a network for `fitserve add`, in a process of its own.

It runs the user's code, with the user's folder as the first place of imports. Its result is the
folder of an export (`fitserve.exported`).
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fitserve.doors import DOORS, Door, door, door_of
from fitserve.exported import RANDOM, Exported, ExportError
from fitserve.folders import export_folder, read_texts
from fitserve.named import export_named, is_named
from fitserve.opening import load_weights, open_object
from fitserve.samples import parse_input, random_rows, read_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a network; return 0, or 1 after an error, which is printed."""
    options = _parser().parse_args(arguments)
    try:
        _export(options).write(options.folder)
    except ExportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except ImportError as error:
        sys.stderr.write(f"error: {error.name} is not installed: pip install {error.name}\n")
        return 1
    return 0


def _export(options: argparse.Namespace) -> Exported:
    """Return the network that the command line names."""
    if Path(options.source).is_dir():
        texts = read_texts(options.sample) if options.sample else None
        return export_folder(Path(options.source), texts, options.max_tokens)
    if is_named(options.source):
        return export_named(options.source, options.weights)
    samples = _samples(options)
    found: Door
    if options.door:
        found = door(options.door)
        network = found.read(Path(options.source))
    else:
        network = open_object(options.source)
        if options.weights:
            load_weights(network, options.weights)
        found = door_of(network)
    sys.stdout.write(f"exporting a {found.SHOWN}\n")
    exported = found.export(network, samples, ())
    if options.inputs and not options.sample:
        exported = replace(exported, notes=[*exported.notes, RANDOM])
    return exported


def _samples(options: argparse.Namespace) -> list[Any]:
    if options.sample:
        return [read_rows(options.sample)]
    return list(random_rows(options.inputs)) if options.inputs else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Export a network.")
    add = parser.add_argument
    add("source", help="a file, folder, path/net.py:make, package.module:Class or timm:NAME")
    add("folder", type=Path, help="an empty folder, which gets the files")
    add("--door", choices=DOORS, help="the kind of the file")
    add("--weights", type=Path)
    add("--sample", type=Path)
    add("--max-tokens", type=int, help="a text with more tokens is cut")
    add("--input", type=parse_input, action="append", default=[], dest="inputs")
    return parser


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
