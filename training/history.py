"""The record of a training run: its epochs, and which one was kept."""

from dataclasses import dataclass, field

from training.datasets import Task


@dataclass(frozen=True)
class Epoch:
    """The losses and the metric of one epoch: the accuracy, or the mean absolute error."""

    epoch: int
    lr: float
    train_loss: float
    validation_loss: float
    metric: float

    def score(self, task: Task) -> tuple[float, float]:
        """Return a sort key, larger is better.

        Classification compares the accuracy and then the validation loss, regression compares the
        validation loss.
        """
        return (self.metric if task == "classification" else 0.0, -self.validation_loss)


@dataclass
class History:
    """The epochs of a training run, the epoch of the kept weights, and the duration."""

    epochs: list[Epoch] = field(default_factory=list)
    kept: Epoch | None = None
    seconds: float = 0.0
    interrupted: bool = False
