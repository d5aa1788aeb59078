"""Small files that hold large pictures: many at once take no more memory than one."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from live_server import Server, serving, temporary_home
from PIL import Image


@contextmanager
def most_memory(server: Server) -> Iterator[list[int]]:
    """The most memory that its workers take in the block, in bytes, once that is over."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], sum(worker.memory_info().rss for worker in server.workers()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def test_large_pictures_are_decoded_one_at_a_time(root: Path) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (5000, 4000), (255, 255, 255, 255)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000

    with temporary_home() as home, serving(home, root) as server:

        def send(_: int) -> int:
            files = {"images": ("white.png", file.getvalue())}
            return httpx.post(f"{server.url}/classify_image", files=files, timeout=120).status_code

        with most_memory(server) as by_one:
            assert send(1) == 400  # it shows no ink
        with most_memory(server) as by_many, ThreadPoolExecutor(6) as senders:
            assert set(senders.map(send, range(6))) == {400}
    assert by_many[0] < by_one[0] + 200e6, f"{by_one[0] / 1e6:.0f} to {by_many[0] / 1e6:.0f} MB"
