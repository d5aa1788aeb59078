"""The progress of a training run on standard error."""

import sys
from collections.abc import Iterator

from tqdm import tqdm

from training.datasets import Task
from training.history import Epoch

INTERRUPTED = (
    "interrupted: training ends here, and the best weights so far are evaluated and kept; "
    "Ctrl-C again stops at once; --resume goes on from here"
)


class Progress:
    """Progress: nested bars on a terminal, at most 20 plain lines elsewhere, or no output."""

    def __init__(self, epochs: int, done: int, enabled: bool) -> None:
        terminal = sys.stderr.isatty()
        self._epochs = epochs
        self._lines = enabled and not terminal
        self._bars = enabled and terminal
        self._interrupted_shown = False
        self._outer = tqdm(total=epochs, initial=done, unit="epoch", disable=not self._bars)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._outer.close()

    def batches(self, done: int, count: int) -> Iterator[int]:
        """Return the numbers of the batches that are left of an epoch."""
        left = range(done, count)
        if not self._bars:
            return iter(left)
        return iter(tqdm(left, total=count, initial=done, unit="batch", leave=False))

    def interrupted(self) -> None:
        """Print once that Ctrl-C ended the epoch."""
        if not self._interrupted_shown and (self._lines or self._bars):
            self._outer.write(INTERRUPTED, file=sys.stderr)
        self._interrupted_shown = True

    def epoch(self, epoch: Epoch, task: Task) -> None:
        """Report a completed epoch."""
        name = "accuracy" if task == "classification" else "error"
        text = (
            f"loss {epoch.train_loss:.4f}, validation loss {epoch.validation_loss:.4f}, "
            f"{name} {epoch.metric:.4f}"
        )
        self._outer.set_postfix_str(text, refresh=False)
        self._outer.update()
        every = -(-self._epochs // 20)
        if self._lines and (epoch.epoch % every == 0 or epoch.epoch == self._epochs):
            line = f"epoch {epoch.epoch}/{self._epochs}: lr {epoch.lr:.2e}, {text}\n"
            sys.stderr.write(line)
            sys.stderr.flush()
