"""Asks a running container for predictions: `ask.py PORT`; or for its end: `ask.py PORT PID`.

Before its end its worker is killed, and it is asked again. PID is of its `bentoml serve`, as this
machine counts. The exit status is 0 where everything was as it should be; what was seen is printed.
test.sh calls this.
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
Y = [0.1402408, 2.966249, 8.487972]  # what README.md says of curve-tanh
START_SECONDS = 120.0
DRAIN_SECONDS = 30.0  # what the image's command says
BACK_SECONDS = 30.0  # from a worker's death to the next one's first answer
END_SECONDS = 5.0  # from the end of draining to the end of the last process


def ask(port: int, path: str, message: object = None) -> Any:
    """What the server answers, from JSON.

    Raises:
        OSError: it is not reached, or refuses.
    """
    body = None if message is None else json.dumps(message).encode()
    headers = {"Content-Type": "application/json"}
    request = Request(f"http://127.0.0.1:{port}{path}", body, headers)
    with urlopen(request, timeout=30) as answer:  # noqa: S310
        content = answer.read()
    return json.loads(content) if content.startswith((b"{", b"[")) else content.decode()


def say(line: str) -> None:
    """Print what was seen, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def check(holds: bool, line: str) -> None:
    """Say what was seen; where it is not as it should be, end."""
    say(("ok    " if holds else "WRONG ") + line)
    if not holds:
        raise SystemExit(1)


def wait_until_ready(port: int) -> None:
    """Return as soon as models are served."""
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
    """Whether these are the curve's values."""
    return len(got) == len(Y) and all(abs(a - b) < 1e-3 for a, b in zip(got, Y, strict=True))


def check_predictions(port: int) -> None:
    """The protocol and the typed endpoints answer, every model serves, and the page is there."""
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
    """A worker that dies has a successor."""
    workers = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended in the meantime
            parent = int(file.read_text().rpartition(")")[2].split()[1])
            workers += [int(file.parent.name)] * (parent == server)
    (worker,) = workers
    os.kill(worker, signal.SIGKILL)
    at = time.monotonic()
    time.sleep(0.5)  # who has asked it by then has lost
    check(close(ask(port, "/predict_curve", {"x": X})["y"]), "it answers after a worker was killed")
    seconds = time.monotonic() - at
    check(seconds < BACK_SECONDS, f"within {seconds:.1f} s")


def begin(port: int, length: int) -> socket.socket:
    """Send the head of a prediction's request, and none of its body of so many bytes."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=DRAIN_SECONDS + END_SECONDS)
    head = f"POST /predict_curve HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    connection.sendall((head + "Content-Type: application/json\r\n\r\n").encode())
    return connection


def check_end(port: int, server: int) -> None:
    """On SIGTERM what has begun is answered; what does not come to its end is not waited for."""
    body = json.dumps({"x": X}).encode()
    with begin(port, len(body)) as begun, begin(port, 1000):
        time.sleep(0.5)
        os.kill(server, signal.SIGTERM)
        at = time.monotonic()
        time.sleep(1)
        begun.sendall(body)
        answer = begun.makefile("rb").readline().decode().strip()
        check(" 200 " in answer + " ", f"a request that had begun before SIGTERM: {answer}")
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
    return check(False, f"it is there {DRAIN_SECONDS + END_SECONDS:.0f} s after SIGTERM")


if __name__ == "__main__":
    where, *whom = (int(argument) for argument in sys.argv[1:])
    if whom:
        check_replacement(where, *whom)
        check_end(where, *whom)
    else:
        wait_until_ready(where)
        check_predictions(where)
