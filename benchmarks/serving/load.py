"""The load generators: wrk for the highest throughput, h2load for a constant rate.

Both are compiled programs, so that they use little of the cores that they share with the server.
"""

import json
import math
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TIMEOUT_SECONDS = 10
RATE_OF_ONE_CONNECTION = 100.0
"""Requests/s. h2load's timer has a period of 10 ms; a higher rate would send bursts."""
PROCESSES = 8
"""Processes of h2load. The connections of one process send at the same time."""

_SCRIPT = """\
local requests, current = {}, 0

function init(arguments)
  for index = 1, %(count)d do
    local file = assert(io.open("%(folder)s/" .. index, "rb"))
    requests[index] = wrk.format("POST", nil, nil, file:read("*a"))
    file:close()
  end
end

function request()
  current = current %% #requests + 1
  return requests[current]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'DONE {"requests": %%d, "microseconds": %%d, "connect": %%d, "read": %%d, "write": %%d, ' ..
    '"status": %%d, "timeout": %%d, "p50": %%f, "p99": %%f, "longest": %%f}\\n',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write,
    errors.status, errors.timeout, latency:percentile(50), latency:percentile(99), latency.max))
end
"""


class LoadError(Exception):
    """A load generator that is missing or failed. The message names the remedy."""


@dataclass(frozen=True)
class Load:
    """The result of a run of wrk. Latencies are in milliseconds."""

    connections: int
    seconds: float
    requests: int
    requests_per_second: float
    p50: float
    p99: float
    longest: float
    errors: Mapping[str, int]
    generator_cores: float


def check_tools(names: Sequence[str]) -> None:
    """Check that the load generators are installed.

    Raises:
        LoadError: a load generator is missing.
    """
    packages = {"wrk": "wrk", "h2load": "nghttp2-client"}
    missing = [packages[name] for name in names if shutil.which(name) is None]
    if missing:
        raise LoadError(f"A load generator is missing: apt-get install {' '.join(missing)}.")


def wrk(
    url: str,
    bodies: Sequence[bytes],
    headers: Mapping[str, str],
    *,
    connections: int,
    seconds: float,
) -> Load:
    """POST the bodies in rotation, as fast as the server responds.

    Args:
        url: the endpoint.
        bodies: the request bodies.
        headers: the headers of every request.
        connections: the number of open connections, each with one request at a time.
        seconds: the duration, rounded to a whole number of at least 1.

    Raises:
        LoadError: wrk failed.
    """
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        for index, body in enumerate(bodies, 1):
            (Path(folder) / str(index)).write_bytes(body)
        script = Path(folder) / "script.lua"
        script.write_text(_SCRIPT % {"count": len(bodies), "folder": folder})
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
        command += [f"--header={name}: {value}" for name, value in headers.items()]
        before = _children_seconds()
        completed = subprocess.run(
            [*command, "--script", str(script), url], capture_output=True, text=True, check=False
        )
        spent = _children_seconds() - before
    if completed.returncode:
        raise LoadError(f"wrk failed: {(completed.stderr or completed.stdout).strip()[-500:]}")
    return read_wrk(completed.stdout, connections, spent)


def read_wrk(output: str, connections: int, cpu_seconds: float) -> Load:
    """Parse the output of the script's `done`.

    Raises:
        LoadError: the output has no result.
    """
    line = re.search(r"^DONE (\{.*\})$", output, re.MULTILINE)
    if line is None:
        raise LoadError(f"wrk printed no result: {output.strip()[-500:]}")
    report = json.loads(line[1])
    seconds = report["microseconds"] / 1e6
    return Load(
        connections=connections,
        seconds=seconds,
        requests=report["requests"],
        requests_per_second=report["requests"] / seconds,
        p50=report["p50"] / 1e3,
        p99=report["p99"] / 1e3,
        longest=report["longest"] / 1e3,
        errors={
            k: report[k] for k in ("connect", "read", "write", "status", "timeout") if report[k]
        },
        generator_cores=cpu_seconds / seconds,
    )


@dataclass(frozen=True)
class Trace:
    """The requests of a run at a constant rate, in the order of their start.

    `began` is in seconds after the first request, `took` in milliseconds; both float64 [N].
    """

    began: NDArray[np.float64]
    took: NDArray[np.float64]
    errors: Mapping[str, int]
    generator_cores: float


def h2load(
    url: str, body: bytes, headers: Mapping[str, str], *, rate: float, seconds: float
) -> Trace:
    """POST one body at a constant rate, over as many connections as the rate needs.

    Args:
        url: the endpoint.
        body: the body of every request.
        headers: the headers of every request.
        rate: requests per second.
        seconds: the duration.

    Raises:
        LoadError: h2load failed.
    """
    connections = math.ceil(rate / PROCESSES / RATE_OF_ONE_CONNECTION)
    command = ["h2load", "--h1", "--threads=1", f"--clients={connections}"]
    command += [f"--rps={rate / PROCESSES / connections:.3f}"]
    command += [f"--duration={max(1, round(seconds))}"]
    command += [f"--header={name}: {value}" for name, value in headers.items()]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fb-")))
        (folder / "body").write_bytes(body)
        logs = [folder / f"log{number}" for number in range(PROCESSES)]
        before = _children_seconds()
        generators = []
        for log in logs:
            generator = subprocess.Popen(
                [*command, f"--data={folder / 'body'}", f"--log-file={log}", url],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(generator.kill)
            generators.append(generator)
        outputs = [generator.communicate()[0] for generator in generators]
        spent = _children_seconds() - before
        if any(generator.returncode for generator in generators):
            raise LoadError(f"h2load failed: {outputs[0].strip()[-500:]}")
        return read_h2load(logs, outputs, spent / seconds)


def read_h2load(logs: Sequence[Path], outputs: Sequence[str], generator_cores: float) -> Trace:
    """Parse the logs of the processes and the failure counts of their outputs.

    Raises:
        LoadError: a log has no request, or an output has no count.
    """
    tables = []
    errors = {"status": 0, "failed": 0, "timeout": 0}
    for log, output in zip(logs, outputs, strict=True):
        counts = re.search(r"(\d+) failed, \d+ errored, (\d+) timeout", output)
        if counts is None or not log.is_file() or not log.stat().st_size:
            raise LoadError(f"h2load printed no result: {output.strip()[-500:]}")
        tables.append(np.loadtxt(log, dtype=np.int64, ndmin=2))
        errors["status"] += int(np.count_nonzero(tables[-1][:, 1] != 200))
        errors["failed"] += int(counts[1])
        errors["timeout"] += int(counts[2])
    rows = np.concatenate(tables)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Trace(
        began=(rows[:, 0] - rows[0, 0]) / 1e6,
        took=rows[:, 2] / 1e3,
        errors={name: count for name, count in errors.items() if count},
        generator_cores=generator_cores,
    )


def _children_seconds() -> float:
    """Return the CPU seconds of terminated child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
