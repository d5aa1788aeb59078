"""Recipes by their name, or in files of the user: `path/recipe.py:NAME`.

The name may be omitted if the file has one recipe.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from pydantic import TypeAdapter, ValidationError

from models.package.card import PackageName
from training.recipe import Recipe, RecipeError
from training.recipes import RECIPES


def is_file(text: str) -> bool:
    """Return whether the argument of `fit` names a file, not a recipe that is shipped."""
    return text.partition(":")[0].endswith(".py")


def find_recipe(text: str) -> Recipe:
    """Return the recipe that `text` names: that of a file, or one that is shipped.

    Raises:
        RecipeError: there is none.
    """
    if is_file(text):
        return load_recipe(text)
    if text not in RECIPES:
        raise RecipeError(
            f"there is no recipe {text!r}; there are {', '.join(RECIPES)}, and your own as "
            "path/file.py:NAME"
        )
    return RECIPES[text]


def load_recipe(text: str) -> Recipe:
    """Load the recipe that `text` names. The code of the file runs, with its folder importable.

    Raises:
        RecipeError: there is no such file or recipe, or its name cannot be that of a package.
    """
    file, _, name = text.partition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise RecipeError(f"there is no file {file}: give the path of a Python file with a Recipe")
    recipes = {k: v for k, v in vars(_module(path)).items() if isinstance(v, Recipe)}
    if not recipes:
        raise RecipeError(
            f"{file} has no recipe: make one, as recipe = training.recipe.Recipe(...)"
        )
    if not name and len(recipes) == 1:
        name = next(iter(recipes))
    if name not in recipes:
        choice = " or ".join(f"{file}:{known}" for known in recipes)
        raise RecipeError(f"name a recipe of the file: {choice}")
    recipe = recipes[name]
    try:
        TypeAdapter(PackageName).validate_python(recipe.name)
    except ValidationError as error:
        raise RecipeError(
            f"{file}: the name {recipe.name!r}: {error.errors()[0]['msg']}"
        ) from error
    return recipe


def _module(path: Path) -> ModuleType:
    # Last, so that modules of the user do not take the place of others.
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # TorchScript finds the source of a network by its module
    spec.loader.exec_module(module)
    return module
