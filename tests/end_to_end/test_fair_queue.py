"""A large request takes turns with the requests of its neighbours, by one caller or by others."""

import asyncio
import json
from pathlib import Path

import pytest
from faulty_networks import answer, write_slow
from live_server import serving, temporary_home
from raw_client import Line, Reply, message

STEPS = 7000  # iterations of a loop per row: about 5 ms
LARGE_ROWS = 600
NEIGHBOURS = 20
SHARE = 1 / 3  # of the time of the large request: a small one waits for a few batches of many


def large_message() -> bytes:
    tensor = {"name": "x", "shape": [LARGE_ROWS, 1], "datatype": "FP32", "data": [1] * LARGE_ROWS}
    body = json.dumps({"inputs": [tensor]}).encode()
    header = (
        f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    )
    return header.encode() + b"\r\n\r\n" + body


async def ask_all(port: int, others: bool) -> tuple[Reply, list[Reply]]:
    """Send the large request, and those of its neighbours while it is computed."""
    lines = [await Line.to(port) for _ in range(NEIGHBOURS + 1)]
    large = asyncio.create_task(lines.pop().ask(large_message()))
    await asyncio.sleep(0.3)
    assert not large.done()
    clients = [{"X-Forwarded-For": f"192.0.2.{i}"} if others else {} for i in range(NEIGHBOURS)]
    replies = await asyncio.gather(
        *(line.ask(message("slow", 3, client)) for line, client in zip(lines, clients, strict=True))
    )
    replied = await large
    for line in lines:
        line.close()
    return replied, replies


@pytest.mark.slow
async def test_neighbours_of_a_large_request_are_served_while_it_is_computed(
    root: Path, tmp_path: Path
) -> None:
    write_slow(tmp_path, "slow", STEPS)
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(tmp_path),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_INTRA_OP_THREADS": "1",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        port = int(server.url.rpartition(":")[2])
        for others in (False, True):
            large, replies = await ask_all(port, others)
            assert large.status == 200, large
            (output,) = json.loads(large.body)["outputs"]
            assert output["data"] == [answer(1)] * LARGE_ROWS
            assert all(reply.is_right(3) for reply in replies), replies
            slowest = max(reply.seconds for reply in replies)
            print(f"large {large.seconds:.2f} s, neighbours at most {slowest:.2f} s")
            assert slowest < SHARE * large.seconds
