"""The command `python -m training tune`: a study of a recipe, and what comes of it."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from models.devices import DeviceError
from models.interrupts import INTERRUPTED
from models.repository import SHIPPED
from training.datasets import DATASETS, DOWNLOADS, DataError, load
from training.hyperparameters import HyperparameterError
from training.loop import pick_device
from training.recipe import Preset, RecipeError
from training.recipes import RECIPES
from training.snapshots import CHECKPOINT_FOLDER

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from training.tuning import Search
