"""Tests of the peers with one worker and two: they start, and answer as fitserve.

`python -m benchmarks.serving` installs their environments; the tests install nothing.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.serving.environments import installed
from benchmarks.serving.payloads import TOLERANCE, Probabilities
from benchmarks.serving.processes import marked, running
from benchmarks.serving.servers import FITSERVE, OURS, SERVERS, Server


@pytest.fixture(scope="module")
def expected() -> Iterator[Probabilities]:
    """The probabilities of fitserve."""
    with running(FITSERVE) as server:
        yield server.probabilities(OURS)


PEERS = [
    pytest.param(
        server,
        id=server.name,
        marks=pytest.mark.skipif(
            not installed(server),
            reason=f"{server.name} is not installed: python -m benchmarks.serving installs it",
        ),
    )
    for server in SERVERS.values()
    if server.peer and len(server.workers) > 1
]


@pytest.mark.parametrize("server", PEERS)
def test_a_peer_answers_the_probabilities_of_fitserve_with_one_worker_and_with_two(
    server: Server, expected: Probabilities
) -> None:
    processes = []
    for workers in (1, 2):
        with running(server, workers=workers) as running_server:
            for row in server.rows:
                np.testing.assert_allclose(
                    running_server.probabilities(row), expected, atol=TOLERANCE, rtol=0
                )
            processes.append(len(marked(running_server.mark)))
    assert processes[1] > processes[0]


def test_fitserve_is_measured_with_one_worker_and_with_two() -> None:
    for workers in FITSERVE.workers:
        with running(FITSERVE, workers=workers) as server:
            assert len(server.workers()) == workers
