"""The recipes that this project ships, by name. Each family has a module of its own."""

from training.recipe import Recipe
from training.recipes.curve import curve_linear, curve_mlp, curve_tanh
from training.recipes.flights import flights_mlp
from training.recipes.mnist import mnist_cnn, mnist_mlp
from training.recipes.moons import moons_linear, moons_tanh

__all__ = ["RECIPES"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        mnist_mlp, mnist_cnn,
        curve_linear, curve_mlp, curve_tanh,
        moons_linear, moons_tanh,
        flights_mlp,
    )
}  # fmt: skip
