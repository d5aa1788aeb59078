"""A network that computes each single row once: the checks ask for the same rows again."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.runtimes.runtime import Arrays, Runtime


class SingleRows:
    """The network, with the outputs of the single rows that it has computed.

    Larger batches are computed each time. Use it as the reference of a check, and where the network
    is compared with another one; a check that a network gives the same twice computes twice.

    Args:
        network: the network.
    """

    def __init__(self, network: Runtime) -> None:
        self.network = network
        self._outputs: dict[bytes, dict[str, NDArray[Any]]] = {}

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of one batch, as `Runtime` says."""
        if len(next(iter(inputs.values()))) != 1:
            return self.network(inputs)
        key = b"".join(
            f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
            for array in inputs.values()
        )
        if key not in self._outputs:
            self._outputs[key] = self.network(inputs)
        return self._outputs[key]
