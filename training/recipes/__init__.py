"""The recipes that this project ships, by name. Each family has a module of its own."""

from training.recipe import Recipe
from training.recipes.adder import adder_transformer
from training.recipes.curve import curve_linear, curve_mlp, curve_tanh
from training.recipes.fashion import fashion_cnn
from training.recipes.flights import flights_mlp
from training.recipes.logic import perceptron_and, perceptron_xor, xor_mlp
from training.recipes.mnist import mnist_cnn, mnist_mlp
from training.recipes.moons import moons_linear, moons_tanh
from training.recipes.names import names_lstm

__all__ = ["RECIPES"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        mnist_mlp, mnist_cnn,
        curve_linear, curve_mlp, curve_tanh,
        moons_linear, moons_tanh,
        perceptron_and, perceptron_xor, xor_mlp,
        adder_transformer,
        flights_mlp,
        fashion_cnn, names_lstm,
    )
}  # fmt: skip
