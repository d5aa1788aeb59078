"""The recipe for the air time of flights: categories embedded, missing values, units kept."""

from training.hyperparameters import TableHyperparameters
from training.recipe import Recipe
from training.table_recipe import build, pictures, served

flights_mlp = Recipe(
    name="flights-mlp",
    summary="The minutes in the air of a flight from New York, by what is known before departure.",
    data="flights",
    build=build,
    default=TableHyperparameters(
        epochs=15, batch_size=512, optimizer="adamw", lr=2e-3, weight_decay=0.05,
        lr_scheduler="one-cycle",
    ),
    metric="mse",
    seeds=3,
    intended_use="Predict how long a flight from New York is in the air.",
    served=served,
    pictures=pictures,
)  # fmt: skip
