"""The commands of training: `python -m training list` and `python -m training fit NAME`."""

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import torch
import typer
from rich.console import Console
from rich.table import Table

from models.interrupts import INTERRUPTED
from models.package import PackageError
from models.page import headline
from models.parity import ParityError
from models.repository import ModelRepository
from training.datasets import DOWNLOADS, DataError, Dataset, DatasetName, load
from training.evaluation import NotFiniteError
from training.export import ExportError, check_repository, export
from training.fitting import Fitted, fit_recipe
from training.hyperparameters import (
    CnnHyperparameters,
    ColumnHyperparameters,
    HyperparameterError,
    ImageHyperparameters,
    MlpHyperparameters,
)
from training.loop import DeviceError, DivergedError, pick_device
from training.publishing import PublishError, check_data, check_result, write_checkpoint
from training.recipes import RECIPES, Recipe, Setting

app = typer.Typer(
    help="Fit, evaluate, export and prove the networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()


@app.command("list")
def show_recipes() -> None:
    """Show every recipe, and the package that it was shipped as."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    for column in ("network", "package"):
        table.add_column(column)
    repository = ModelRepository(Path("models"))
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
    """Give `command` one option for each hyperparameter of any recipe, in place of **values."""
    fields = {
        name: field
        for kind in (ColumnHyperparameters, MlpHyperparameters, CnnHyperparameters)
        for name, field in kind.model_fields.items()
    }
    options = []
    for name, field in fields.items():
        kind: Any = field.annotation
        if isinstance(kind, types.UnionType):  # X | None: left out is None already
            kind = get_args(kind)[0]
        description = field.description
        if get_origin(kind) is tuple:
            kind = list[str]
            description = f"{description}: as 64,32, or one at a time"
        option = typer.Option(help=description, rich_help_panel="Hyperparameters")
        options.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, option],
            )
        )
    own = inspect.signature(command, eval_str=True)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    signature = own.replace(parameters=[*kept, *options])
    command.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return command


@app.command("fit")
@_with_hyperparameters
def fit_recipes(
    names: Annotated[list[str] | None, typer.Argument(help="recipes to fit")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="fit all recipes")] = False,
    setting: Annotated[
        Setting, typer.Option("--as", help="the tutorial's hyperparameters, or ours")
    ] = "default",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="fit so many seeds, ship the best on validation")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="fit the tutorial setting too, for the card's figures")
    ] = True,
    data: Annotated[
        DatasetName | None, typer.Option(help="fit on other data of the same kind")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="FITSERVE_DATA_DIR", help="where MNIST lies or goes")
    ] = DOWNLOADS,
    repository: Annotated[Path, typer.Option(help="where packages are written")] = Path("models"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="publish also what is worse, or trained on other data"),
    ] = False,
    keep_interrupted: Annotated[
        bool, typer.Option("--keep-interrupted", help="publish also a fit that Ctrl-C cut short")
    ] = False,
    **values: Any,
) -> None:
    """Fit, evaluate, export and prove recipes; write each as the next version of its package.

    A network that is worse than the newest version is not written without --replace, one that
    Ctrl-C cut short not without --keep-interrupted; its weights are kept as a checkpoint.
    """
    chosen = {
        name: _numbers(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value not in (None, [])
    }
    code = 0
    try:
        recipes = _recipes(list(RECIPES) if every else names or [])
        settings = {recipe.name: recipe.settings(setting).override(chosen) for recipe in recipes}
        check_repository(repository)
        where = pick_device(device)
        sources = {name: load(name, data_dir) for name in {data or r.data for r in recipes}}
        for recipe in recipes:
            _require_same_kind(recipe, sources[data or recipe.data])
            if not replace:
                check_data(recipe, sources[data or recipe.data], repository)
        if threads:
            torch.set_num_threads(threads)
        for recipe in recipes:
            fitted = fit_recipe(
                recipe,
                setting,
                settings[recipe.name],
                sources[data or recipe.data],
                seeds=seeds or recipe.seeds,
                compare=compare,
                device=where,
            )
            code = max(code, _publish(fitted, repository, replace, keep_interrupted))
            if fitted.interrupted:
                break
    except (
        DataError, DeviceError, DivergedError, ExportError, HyperparameterError, NotFiniteError,
        PackageError, ParityError, PublishError, RecipeError,
    ) as error:  # fmt: skip
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if code:
        raise typer.Exit(code)


def _publish(fitted: Fitted, repository: Path, replace: bool, keep_interrupted: bool) -> int:
    """Write the package, or a checkpoint where it may not be published; the exit code for it."""
    code = INTERRUPTED if fitted.interrupted else 0
    try:
        if fitted.interrupted and not keep_interrupted:
            raise PublishError(
                f"{fitted.recipe.name}: interrupted, no package is written "
                "(--keep-interrupted writes one)"
            )
        check_result(fitted, repository, replace=replace)
    except PublishError as error:
        try:
            kept = f"its weights are in {write_checkpoint(fitted, repository)}"
        except OSError as failure:
            kept = f"its weights could not be kept ({failure.strerror})"
        typer.echo(f"error: {error}; {kept}", err=True)
        return code or 1
    package = export(fitted, repository)
    console.print(f"[bold]{package.label}[/bold] {headline(package.card)}: {package.path}")
    return code


def _numbers(texts: list[str]) -> list[int | str]:
    """Whole numbers, of which a text may hold several with commas; what is none stays as it is."""
    found: list[int | str] = []
    for text in ",".join(texts).split(","):
        try:
            found.append(int(text))
        except ValueError:
            found.append(text)
    return found


class RecipeError(ValueError):
    """No such recipe, or none named, or one that does not go with the data."""


def _recipes(names: list[str]) -> list[Recipe]:
    known = ", ".join(RECIPES)
    if not names:
        raise RecipeError(f"name a recipe, or --all; there are {known}")
    for name in names:
        if name not in RECIPES:
            raise RecipeError(f"there is no recipe {name!r}; there are {known}")
    return [RECIPES[name] for name in names]


def _require_same_kind(recipe: Recipe, data: Dataset) -> None:
    images = isinstance(recipe.default, ImageHyperparameters)
    fits = data.train.inputs.ndim == 3 if images else data.name == recipe.data
    if not fits:
        raise RecipeError(f"the recipe {recipe.name} cannot be fitted on {data.name}")
