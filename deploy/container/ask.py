"""Checks of a running container for test.sh: `ask.py PORT` or `ask.py PORT PID`.

`ask.py PORT` requests predictions. `ask.py PORT PID` kills the worker, requests a prediction from
its replacement, and stops the server. PID is the id of `bentoml serve` on this machine. The program
prints its checks; the exit status is 0 if all passed.
"""

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

X = [0, 5, 10.5]
Y = [0.1402408, 2.966249, 8.487972]  # as in README.md
START_SECONDS = 120.0
DRAIN_SECONDS = 30.0  # as in the image's command
BACK_SECONDS = 30.0  # from a worker's death to the first response of its replacement
END_SECONDS = 5.0  # from the end of draining to the exit of the last process


def ask(port: int, path: str, message: object = None) -> Any:
    """Return the server's response, decoded from JSON if the content is JSON.

    Raises:
        OSError: the server is unreachable or responds with an error.
    """
    body = None if message is None else json.dumps(message).encode()
    headers = {"Content-Type": "application/json"}
    request = Request(f"http://127.0.0.1:{port}{path}", body, headers)
    with urlopen(request, timeout=30) as answer:  # noqa: S310
        content = answer.read()
    return json.loads(content) if content.startswith((b"{", b"[")) else content.decode()


def say(line: str) -> None:
    """Print a line without buffering."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def check(holds: bool, line: str) -> None:
    """Print the result of a check.

    Raises:
        SystemExit: the check failed.
    """
    say(("ok    " if holds else "WRONG ") + line)
    if not holds:
        raise SystemExit(1)


def wait_until_ready(port: int) -> None:
    """Wait until the server is ready."""
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS:
        try:
            ask(port, "/readyz")
        except (HTTPError, URLError, OSError):
            time.sleep(0.2)
        else:
            return say(f"      ready after {time.monotonic() - began:.1f} s")
    return check(False, f"/readyz did not answer 200 within {START_SECONDS:.0f} s")


def close(got: list[float]) -> bool:
    """Return whether these are the curve's values."""
    return len(got) == len(Y) and all(abs(a - b) < 1e-3 for a, b in zip(got, Y, strict=True))


def check_predictions(port: int) -> None:
    """Check the V2 protocol, the typed endpoints, the list of models, and the playground."""
    listed = ask(port, "/models")
    names = [model["name"] for model in listed["models"]]
    check(listed["refused"] == {} and len(names) > 0, f"serves {', '.join(names)}")
    tensor = {"name": "x", "shape": [3, 1], "datatype": "FP32", "data": X}
    v2 = ask(port, "/v2/models/curve-tanh/infer", {"inputs": [tensor]})["outputs"][0]["data"]
    check(close(v2), f"/v2/models/curve-tanh/infer: {v2}")
    typed = ask(port, "/predict_curve", {"x": X})["y"]
    check(close(typed), f"/predict_curve: {typed}")
    digits = ask(port, "/classify_digits", {"images": [[0] * 784] * 2})["predictions"]
    check(len(digits) == 2, f"/classify_digits: {len(digits)} answers for two images")
    check('src="playground/main.js"' in ask(port, "/"), "/ is the page")
    check("export" in ask(port, "/playground/api.js"), "/playground/api.js is a file of it")


def check_replacement(port: int, server: int) -> None:
    """Check that a killed worker is replaced."""
    workers = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has exited in the meantime
            parent = int(file.read_text().rpartition(")")[2].split()[1])
            workers += [int(file.parent.name)] * (parent == server)
    (worker,) = workers
    os.kill(worker, signal.SIGKILL)
    at = time.monotonic()
    time.sleep(0.5)  # requests to the killed worker are lost until its death is detected
    check(close(ask(port, "/predict_curve", {"x": X})["y"]), "a killed worker is replaced")
    seconds = time.monotonic() - at
    check(seconds < BACK_SECONDS, f"within {seconds:.1f} s")


def begin(port: int, length: int) -> socket.socket:
    """Send the headers of a prediction request with a body of `length` bytes, without the body."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=DRAIN_SECONDS + END_SECONDS)
    headers = f"POST /predict_curve HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    connection.sendall((headers + "Content-Type: application/json\r\n\r\n").encode())
    return connection


def check_end(port: int, server: int) -> None:
    """Check that SIGTERM lets a request in progress end, and stops the server in time."""
    body = json.dumps({"x": X}).encode()
    with begin(port, len(body)) as begun, begin(port, 1000):
        time.sleep(0.5)
        os.kill(server, signal.SIGTERM)
        at = time.monotonic()
        time.sleep(1)
        begun.sendall(body)
        answer = begun.makefile("rb").readline().decode().strip()
        check(" 200 " in answer + " ", f"a request in progress at SIGTERM: {answer}")
        try:
            ask(port, "/livez")
            refused = False
        except (URLError, OSError):
            refused = True
        check(refused, "a request after SIGTERM is refused")
        while time.monotonic() - at < DRAIN_SECONDS + END_SECONDS:
            try:
                os.kill(server, 0)
            except ProcessLookupError:
                return say(f"ok    ended {time.monotonic() - at:.1f} s after SIGTERM")
            time.sleep(0.1)
    return check(False, f"still running {DRAIN_SECONDS + END_SECONDS:.0f} s after SIGTERM")


if __name__ == "__main__":
    port_number, *server_id = (int(argument) for argument in sys.argv[1:])
    if server_id:
        check_replacement(port_number, *server_id)
        check_end(port_number, *server_id)
    else:
        wait_until_ready(port_number)
        check_predictions(port_number)
