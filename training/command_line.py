"""The commands of `python -m training`: `list`, `fit` and, from its own module, `tune`."""

import inspect
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import torch
import typer
from rich.console import Console
from rich.table import Table

from models.interrupts import INTERRUPTED
from models.package.model_package import PackageError
from models.package.readme import headline
from models.package.repository import SHIPPED, ModelRepository, default_repository
from models.proofs.parity import ParityError
from models.runtimes.devices import DeviceError
from training.datasets import DATASETS, DOWNLOADS, DataError, Dataset, load
from training.evaluation import NotFiniteError
from training.export import ExportError, check_repository, export
from training.hyperparameters import HyperparameterError, read_hyperparameters
from training.images.command import SIZE
from training.loop import DivergedError, pick_device
from training.own_data import (
    SMALL,
    ImagesOption,
    LeaveOutOption,
    NameOption,
    NetworkOption,
    OwnData,
    PretrainedOption,
    SizeOption,
    SplitByOption,
    TableOption,
    TargetOption,
    TaskOption,
    TypeOption,
    UnitOption,
)
from training.own_recipe import find_recipe
from training.publishing import PublishError, check_data, check_result, write_checkpoint
from training.recipe import Preset, Recipe, RecipeError
from training.recipes import RECIPES
from training.runs import RunResult, run_recipe
from training.snapshots import SECONDS, SnapshotError, remove_snapshots, snapshots_of
from training.tables.command import TableOptions
from training.tracking.trackers import TrackError, open_tracking
from training.tuning.command import tune

app = typer.Typer(
    help="Train, evaluate, export and verify the networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()


@app.command("list")
def list_recipes() -> None:
    """List the recipes and their packages."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    for column in ("network", "package"):
        table.add_column(column)
    repository = ModelRepository(default_repository())
    for recipe in RECIPES.values():
        shipped = "-"
        try:
            if repository.versions(recipe.name):
                package = repository.get(recipe.name)
                shipped = f"{package.label}: {headline(package.card)}"
        except PackageError as error:
            shipped = f"refused: {error}"
        table.add_row(recipe.name, recipe.summary, shipped)
    console.print(table)


def _with_hyperparameters(command: Callable[..., None]) -> Callable[..., None]:
    """Replace **values in the signature by one option for each hyperparameter of any recipe."""
    fields = {
        name: field
        for kind in dict.fromkeys(type(recipe.default) for recipe in RECIPES.values())
        for name, field in kind.model_fields.items()
    }
    options = []
    for name, field in fields.items():
        kind: Any = field.annotation
        if isinstance(kind, types.UnionType):  # X | None; the default is None
            kind = get_args(kind)[0]
        description = field.description
        if get_origin(kind) is tuple:
            kind = list[str]
            description = f"{description}: as 64,32, or a repeated option"
        option = typer.Option(help=description, rich_help_panel="Hyperparameters")
        options.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, option],
            )
        )
    original = inspect.signature(command, eval_str=True)
    parameters = [
        p for p in original.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    signature = original.replace(parameters=[*parameters, *options])
    command.__signature__ = signature  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return command


def _dataset_name(text: str) -> str:
    if text not in DATASETS:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(DATASETS)}")
    return text


@app.command("fit")
@_with_hyperparameters
def fit(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="recipes to train: by name, or a file of your own as path/file.py:NAME"
        ),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="train all recipes")] = False,
    preset: Annotated[
        Preset, typer.Option("--as", help="preset of the hyperparameters")
    ] = "default",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="number of seeds; the best on validation is exported")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="train the tutorial preset too, for the card's figures")
    ] = True,
    data: Annotated[
        str | None,
        typer.Option(
            help="train on other data of the same kind",
            parser=_dataset_name,
            metavar="|".join(DATASETS),
        ),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(envvar="FITSERVE_DATA_DIR", help="folder of MNIST, for reading or download"),
    ] = DOWNLOADS,
    repository: Annotated[
        Path,
        typer.Option(envvar="FITSERVE_MODEL_REPOSITORY", help="the repository for packages"),
    ] = SHIPPED,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="publish a network that is worse or trained on other data"),
    ] = False,
    keep_interrupted: Annotated[
        bool, typer.Option("--keep-interrupted", help="publish a network after Ctrl-C")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the snapshots of an interrupted fit")
    ] = False,
    snapshot_every: Annotated[
        float, typer.Option(min=0, help="seconds from one snapshot to the next")
    ] = SECONDS,
    images: ImagesOption = None,
    size: SizeOption = SIZE,
    network: NetworkOption = SMALL,
    pretrained: PretrainedOption = False,
    table: TableOption = None,
    target: TargetOption = None,
    split_by: SplitByOption = None,
    task: TaskOption = None,
    leave_out: LeaveOutOption = None,
    column_type: TypeOption = None,
    unit: UnitOption = "",
    name: NameOption = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", help="a hyperparameter of a recipe of your own, as NAME=VALUE"),
    ] = None,
    hyperparameter_file: Annotated[
        Path | None,
        typer.Option("--hyperparameters", help="JSON of hyperparameters, as tune writes it"),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="follow with jsonl:FILE, tensorboard:DIR or mlflow[:EXPERIMENT]"),
    ] = None,
    **values: Any,
) -> None:
    """Train, evaluate, export and verify recipes, and write the next version of each package.

    Without --replace, a network that is worse than the newest version is not published. Without
    --keep-interrupted, a network is not published after Ctrl-C. Its weights are written as a
    checkpoint.
    """
    overrides = {
        name: _numbers(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value not in (None, [])
    }
    code = 0
    try:
        overrides |= dict(_assignment(text) for text in set_values or [])
        if hyperparameter_file:  # the options come before the file
            overrides = read_hyperparameters(hyperparameter_file) | overrides
        tracking = open_tracking(track or [])
        own = OwnData(
            images=images, size=size, network=network, pretrained=pretrained, table=table,
            options=TableOptions(
                target=target, split_by=split_by, task=task, unit=unit,
                leave_out=leave_out or [], types=column_type or [],
            ),
            name=name,
        )  # fmt: skip
        chosen = own.recipe([*(names or []), *(["--all"] if every else [])], console)
        recipes = [chosen] if chosen else _recipes(list(RECIPES) if every else names or [])
        hyperparameters = {
            recipe.name: recipe.hyperparameters(preset).override(overrides) for recipe in recipes
        }
        check_repository(repository)
        picked = pick_device(device)
        sources = {
            recipe.name: load(data, data_dir) if data else recipe.load(data_dir)
            for recipe in recipes
        }
        for recipe in recipes:
            if data:
                _check_input(recipe, sources[recipe.name])
            if not replace:
                check_data(recipe, sources[recipe.name], repository)
        if threads:
            torch.set_num_threads(threads)
        for recipe in recipes:
            source = sources[recipe.name]
            result = run_recipe(
                recipe,
                preset,
                hyperparameters[recipe.name],
                source,
                seeds=seeds or recipe.seeds,
                compare=compare,
                device=picked,
                snapshots=snapshots_of(recipe, source, repository, snapshot_every, resume),
                tracking=tracking,
            )
            code = max(code, _publish(result, repository, replace, keep_interrupted))
            if result.interrupted:
                break
    except (
        DataError, DeviceError, DivergedError, ExportError, HyperparameterError, NotFiniteError,
        PackageError, ParityError, PublishError, RecipeError, SnapshotError, TrackError,
    ) as error:  # fmt: skip
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if code:
        raise typer.Exit(code)


app.command("tune")(tune)


def _publish(result: RunResult, repository: Path, replace: bool, keep_interrupted: bool) -> int:
    """Write the package, or a checkpoint if publishing is refused, and return the exit code."""
    code = INTERRUPTED if result.interrupted else 0
    try:
        if result.interrupted and not keep_interrupted:
            raise PublishError(
                f"{result.recipe.name}: interrupted, no package is written "
                "(--resume goes on, --keep-interrupted writes one)"
            )
        check_result(result, repository, replace=replace)
    except PublishError as error:
        try:
            note = f"its weights are in {write_checkpoint(result, repository)}"
        except OSError as failure:
            note = f"its weights could not be kept ({failure.strerror})"
        typer.echo(f"error: {error}; {note}", err=True)
        return code or 1
    package = export(result, repository)
    if not result.interrupted:
        remove_snapshots(result.recipe, repository)
    console.print(f"[bold]{package.label}[/bold] {headline(package.card)}: {package.path}")
    return code


def _numbers(texts: list[str]) -> list[int | str]:
    """Split texts at commas into whole numbers; text that is no number is kept for validation."""
    numbers: list[int | str] = []
    for text in ",".join(texts).split(","):
        try:
            numbers.append(int(text))
        except ValueError:
            numbers.append(text)
    return numbers


def _assignment(text: str) -> tuple[str, Any]:
    """Split `NAME=VALUE`; a value that is no JSON is a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise HyperparameterError(f"--set {text}: write NAME=VALUE, as --set hidden=[64,32]")
    name = name.replace("-", "_")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _recipes(names: list[str]) -> list[Recipe]:
    if not names:
        raise RecipeError(f"name a recipe, or --all; there are {', '.join(RECIPES)}")
    return [find_recipe(name) for name in names]


def _check_input(recipe: Recipe, data: Dataset) -> None:
    if not recipe.accepts(data):
        raise RecipeError(f"the recipe {recipe.name} cannot be trained on {data.name}")
