"""Data of one's own, as `fit` and `tune` take them: the options, and the recipe that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.datasets import DataError, Task
from training.images.command import SIZE, recipe_of_images
from training.recipe import Recipe
from training.tables.command import TableOptions, recipe_of_table, require_table

SMALL = "small"
_PICTURES, _TABLES = "Pictures", "Tables"

ImagesOption = Annotated[
    Path | None,
    typer.Option(help="learn from pictures: a folder for each class", rich_help_panel=_PICTURES),
]
SizeOption = Annotated[
    int, typer.Option(min=8, max=1_024, help="height and width, pixels", rich_help_panel=_PICTURES)
]
NetworkOption = Annotated[
    str, typer.Option(help="small, or a network of timm by name", rich_help_panel=_PICTURES)
]
PretrainedOption = Annotated[
    bool, typer.Option("--pretrained", help="begin with timm's weights", rich_help_panel=_PICTURES)
]
TableOption = Annotated[
    Path | None, typer.Option(help="learn from a .csv or .parquet file", rich_help_panel=_TABLES)
]
TargetOption = Annotated[
    str | None, typer.Option(help="column to predict", rich_help_panel=_TABLES)
]
SplitByOption = Annotated[
    str | None,
    typer.Option(
        help="column by whose order, or groups of equal texts, rows are split; default: random",
        rich_help_panel=_TABLES,
    ),
]
TaskOption = Annotated[
    Task | None, typer.Option(help="what the target is", rich_help_panel=_TABLES)
]
LeaveOutOption = Annotated[
    list[str] | None,
    typer.Option(help="column that is not used (repeatable)", rich_help_panel=_TABLES),
]
TypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        help="COLUMN=number|integer|boolean|category|date|datetime (repeatable)",
        rich_help_panel=_TABLES,
    ),
]
UnitOption = Annotated[str, typer.Option(help="unit of the target", rich_help_panel=_TABLES)]
NameOption = Annotated[
    str | None, typer.Option(help="name of the package; default: that of the folder or table")
]


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """The values of these options.

    Attributes:
        images: the folder of the pictures.
        size: the height and width that the network takes, in pixels.
        network: `small`, or the name of a network of timm.
        pretrained: whether to begin with timm's weights.
        table: the file of the table.
        options: what to learn of it.
        name: of the package.
    """

    images: Path | None = None
    size: int = SIZE
    network: str = SMALL
    pretrained: bool = False
    table: Path | None = None
    options: TableOptions
    name: str | None = None

    def recipe(self, others: Sequence[str], console: Console) -> Recipe | None:
        """Return the recipe for the data; None without data.

        Args:
            others: the recipes that the command names.
            console: where the columns of a table are shown.

        Raises:
            DataError: the options do not belong together, or the data cannot be used.
        """
        images = self._for_images()
        require_table(self.options, self.table, [*others, *images])
        if self.table:
            return recipe_of_table(self.table, self.options, self.name, console)
        if self.images:
            if others:
                raise DataError(f"--images makes a recipe of its own: omit {', '.join(others)}")
            return recipe_of_images(
                self.images,
                size=self.size,
                network=self.network,
                pretrained=self.pretrained,
                name=self.name,
            )
        if images:
            raise DataError(f"{images[0]} needs --images, with a folder of pictures")
        if self.name:
            raise DataError("--name needs --images or --table: a recipe has its own name")
        return None

    def arguments(self) -> list[str]:
        """Return the options as words of a command; those with their default are left out."""
        options = self.options
        words = self._for_images()
        values = [
            ("--table", self.table), ("--target", options.target),
            ("--split-by", options.split_by), ("--task", options.task),
            *(("--leave-out", column) for column in options.leave_out),
            *(("--type", text) for text in options.types),
            ("--unit", options.unit), ("--name", self.name),
        ]  # fmt: skip
        for option, value in values:
            words += [f"{option}={value}"] if value else []
        return words

    def _for_images(self) -> list[str]:
        """Return the options of pictures as words of a command."""
        words = [f"--images={self.images}"] if self.images else []
        words += [f"--size={self.size}"] if self.size != SIZE else []
        words += [f"--network={self.network}"] if self.network != SMALL else []
        return [*words, "--pretrained"] if self.pretrained else words
