"""`fit --images`: from a folder of pictures to a recipe."""

from pathlib import Path

from models.package.card import PACKAGE_NAME_RULE, is_package_name
from training.datasets import DataError
from training.images.folder import image_folder
from training.images.recipe import image_recipe
from training.recipe import Recipe

SIZE = 64


def recipe_of_images(
    folder: Path,
    *,
    size: int = SIZE,
    network: str = "small",
    pretrained: bool = False,
    name: str | None = None,
) -> Recipe:
    """Return a recipe for pictures in folders, one folder for each class.

    Args:
        folder: the folder of the classes.
        size: the height and width that the network takes, in pixels.
        network: `small`, or the name of a network of timm.
        pretrained: whether to begin with timm's weights.
        name: of the package; by default, that of the folder.

    Raises:
        DataError: the name cannot be that of a package.
    """
    name = name or folder.resolve().name
    if not is_package_name(name):
        raise DataError(f"the name {name!r} {PACKAGE_NAME_RULE}: give another --name")
    return image_recipe(name, lambda _: image_folder(folder, name, size), network, pretrained)
