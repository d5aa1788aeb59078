"""Small files of large pictures: many concurrent ones of a caller take no more memory than two."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from live_server import Server, serving, temporary_home
from PIL import Image


@contextmanager
def most_memory(server: Server) -> Iterator[list[int]]:
    """Measure the peak memory of the workers during the block, in bytes."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            with suppress(psutil.NoSuchProcess):  # a process that runs one job has ended
                sizes = [process.memory_info().rss for process in server.processes()]
                peak[0] = max(peak[0], sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def test_at_most_two_large_pictures_of_a_caller_are_decoded_at_a_time(root: Path) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (5000, 4000), (255, 255, 255, 255)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000

    settings = {"FITSERVE_TIMEOUT_SECONDS": "120"}  # for a busy machine
    with temporary_home() as home, serving(home, root, settings=settings) as server:

        def send(_: int) -> int:
            files = {"images": ("white.png", file.getvalue())}
            return httpx.post(f"{server.url}/classify_image", files=files, timeout=120).status_code

        with most_memory(server) as by_one:
            assert send(1) == 400  # no ink
        with most_memory(server) as by_two, ThreadPoolExecutor(2) as senders:
            assert set(senders.map(send, range(4))) == {400}
        with most_memory(server) as by_many, ThreadPoolExecutor(6) as senders:
            assert set(senders.map(send, range(6))) == {400}
    listed = ", ".join(f"{measured[0] / 1e6:.0f}" for measured in (by_one, by_two, by_many))
    assert by_many[0] < by_two[0] + (by_two[0] - by_one[0]) / 2 + 50e6, f"{listed} MB"
