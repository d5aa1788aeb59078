"""The command `python -m training tune`: searches hyperparameters, and writes what it found."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console

from models.interrupts import INTERRUPTED
from models.package.repository import SHIPPED
from models.runtimes.devices import DeviceError
from training.datasets import DATASETS, DOWNLOADS, DataError, load
from training.hyperparameters import HyperparameterError
from training.images.command import SIZE
from training.loop import pick_device
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
from training.recipe import Preset, Recipe, RecipeError
from training.recipes import RECIPES
from training.snapshots import CHECKPOINT_FOLDER
from training.tables.command import TableOptions

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from training.tuning.study import Search


def tune(
    recipe_name: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="recipe: by name, or as path/file.py:NAME"),
    ] = None,
    *,
    trials: Annotated[
        int, typer.Option(min=1, help="trials that the study has in the end, of all processes")
    ] = 50,
    only: Annotated[
        str, typer.Option(help="hyperparameters to search, as lr,weight_decay", metavar="NAMES")
    ] = "",
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="a range as NAME=LOW:HIGH, choices as NAME=A,B, a value as NAME=VALUE"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="epochs of a trial, not of fit")] = None,
    preset: Annotated[
        Preset, typer.Option("--as", help="preset around which to search")
    ] = "default",
    study_file: Annotated[
        Path | None, typer.Option("--study", help="file of the study; the results are beside it")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="other data of the same kind", metavar="|".join(DATASETS))
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
) -> None:
    """Search the hyperparameters of a recipe by the validation split.

    Started again, the search goes on. Several processes may search at the same time. The best
    hyperparameters are written as JSON, for `fit --hyperparameters`, and what mattered as PNG.
    """
    try:
        from optuna.exceptions import StorageInternalError

        from training.tuning.results import write_result
        from training.tuning.search_space import search_space
        from training.tuning.study import (
            Search,
            TuneError,
            open_study,
            run_trials,
            started_trials,
        )
    except ImportError as error:
        _say("error: tune needs optuna 5 or later: pip install 'optuna>=5'")
        raise typer.Exit(1) from error
    interrupted = False
    own = OwnData(
        images=images, size=size, network=network, pretrained=pretrained, table=table,
        options=TableOptions(
            target=target, split_by=split_by, task=task, unit=unit,
            leave_out=leave_out or [], types=column_type or [],
        ),
        name=name,
    )  # fmt: skip
    try:
        named = [recipe_name] if recipe_name else []
        recipe = own.recipe(named, Console(stderr=True)) or _recipe(recipe_name)
        source = load(data, data_dir) if data else recipe.load(data_dir)
        if data and not recipe.accepts(source):
            raise RecipeError(f"the recipe {recipe.name} cannot be trained on {source.name}")
        base = recipe.hyperparameters(preset).override({"epochs": epochs} if epochs else {})
        names = [text for text in only.split(",") if text]
        space = search_space(base, len(source.train), names, given or [])
        search = Search(recipe, source, space, pick_device(device))
        path = study_file or repository / CHECKPOINT_FOLDER / f"{recipe.name}-tune.db"
        if threads:
            torch.set_num_threads(threads)
        study = open_study(path, search)
        there = started_trials(study)
        _say(f"{path}: " + (f"going on, {there} of {trials} trials" if there else "a new study"))
        if there >= trials:
            _say(f"the study has all its trials; --trials {there + trials} adds {trials}")
        try:
            run_trials(study, search, trials, partial(_report, search=search))
        except KeyboardInterrupt:
            _say("interrupted: the study is kept, and the same command goes on with it")
            interrupted = True
        result = write_result(study, search, path)
    except (
        DataError, DeviceError, HyperparameterError, RecipeError, StorageInternalError,
        TuneError,
    ) as error:  # fmt: skip
        _say(f"error: {error}")
        raise typer.Exit(INTERRUPTED if interrupted else 1) from error
    typer.echo(f"best: {_result(result.trial, search)}")
    for hyperparameter, value in result.values.items():
        typer.echo(f"  {hyperparameter}: {value}")
    typer.echo(f"what mattered: {result.picture or 'not known of fewer than 8 complete trials'}")
    fit = ["python", "-m", "training", "fit", *named, *own.arguments()]
    fit += ["--hyperparameters", str(result.file)]
    options = {
        "--as": (preset, "default"),
        "--data": (data, None),
        "--data-dir": (data_dir, DOWNLOADS),
        "--repository": (repository, SHIPPED),
    }
    for option, (value, usual) in options.items():
        fit += [option, str(value)] if value != usual else []
    typer.echo(f"to train: {shlex.join(fit)}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _recipe(name: str | None) -> Recipe:
    if name is None:
        raise RecipeError(
            f"name a recipe, or give --images or --table; there are {', '.join(RECIPES)}"
        )
    return find_recipe(name)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _report(trial: "FrozenTrial", search: "Search") -> None:
    """Print a trial that has ended, on standard error."""
    drawn = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.params.items()
    )
    _say(f"{_result(trial, search)}; {drawn}")


def _result(trial: "FrozenTrial", search: "Search") -> str:
    """Return the result of a trial, as `trial 3: validation accuracy 0.9712 in 12 s`."""
    result = f"trial {trial.number}: "
    if stopped := trial.user_attrs.get("stopped"):
        return result + f"stopped, {stopped}"
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return result + f"{search.score_name} {search.score(trial):.6g} in {seconds:.0f} s"
