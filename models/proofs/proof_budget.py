"""How many rows the checks compute: as many as a budget of time allows.

The checks compute each row about `RUNS` times: alone, in batches of several sizes, varied, and with
each file. A small network takes all rows; one that takes a tenth of a second for a row, a few.
"""

import time
from dataclasses import replace

from models.runtimes.runtime import Runtime
from models.sources.samples import Samples

SECONDS = 6.0
"""The approximate time of the checks for one file, if more than the fewest rows are computed."""
RUNS = 12
LEAST_ROWS = 8


def affordable(network: Runtime, samples: Samples) -> Samples:
    """Return the first samples, as many as the budget allows; the others are not computed.

    Args:
        network: the network; the error of a network that fails is left to the checks.
        samples: the samples.
    """
    first = samples.smallest[0]
    try:
        network(first)  # the first call allocates memory
        started = time.perf_counter()
        network(first)
    except Exception:  # noqa: BLE001 - the checks report it
        return samples
    batch = samples.fixed_batch or 1
    seconds = (time.perf_counter() - started) / batch
    most = max(int(SECONDS / (RUNS * max(seconds, 1e-6))), LEAST_ROWS)
    most = max(most // batch, 1) * batch
    if most >= samples.largest_check:
        return samples
    rows = {name: array[:most] for name, array in samples.rows.items()}
    return replace(samples, rows=rows, largest_check=most)
