"""Two hosts behind nginx, each with its own address: one is killed, the other restarted.

The hosts are network namespaces on a bridge, which needs root and iproute2; nginx is Debian's, and
its configuration is the one in `deploy/nginx/`.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from faulty_networks import write_slow
from live_server import Server, serving, temporary_home
from raw_client import Tally, ask_on
from waiting import until

CLIENTS = 8
FAIL_TIMEOUT_SECONDS = 1.5  # more than the `fail_timeout` of the configuration
NET = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
PROXY, FIRST, SECOND = (f"{NET}.{number}" for number in (1, 2, 3))

MAIN = """
user root;
worker_processes 1;
daemon off;
pid nginx.pid;
error_log error.log;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include conf.d/fitserve.conf;
}
"""


def ip(*arguments: str) -> None:
    """Run iproute2's `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def namespace(address: str) -> str:
    """Return the name of the host with this address."""
    return f"fs-{NET.replace('.', '-')}-{address.rpartition('.')[2]}"


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """Three hosts on one network that this process can reach."""
    for program in ("ip", "nginx"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    bridge = f"fs{os.getpid()}"
    with ExitStack() as stack:
        try:
            ip("link", "add", bridge, "type", "bridge")
            stack.callback(ip, "link", "del", bridge)
            for address in (PROXY, FIRST, SECOND):
                host, cable = namespace(address), f"{bridge}-{address.rpartition('.')[2]}"
                ip("netns", "add", host)
                stack.callback(ip, "netns", "del", host)
                ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host)
                ip("link", "set", cable, "master", bridge, "up")
                ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
                ip("-n", host, "link", "set", "eth0", "up")
                ip("-n", host, "link", "set", "lo", "up")
            ip("addr", "add", f"{NET}.254/24", "dev", bridge)
            ip("link", "set", bridge, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces can be made here: {error.stderr.decode().strip()}")
        yield


@pytest.fixture
def nginx(hosts: None, root: Path, tmp_path: Path) -> Iterator[None]:
    """The proxy, on the first host."""
    nginx_folder = root / "deploy" / "nginx"
    folder = tmp_path / "conf.d"
    folder.mkdir()
    tmp_path.chmod(0o755)
    shutil.copy(nginx_folder / "fitserve.conf", folder)
    listed = (nginx_folder / "fitserve-hosts").read_text()
    for example, address in (("192.0.2.11", FIRST), ("192.0.2.12", SECOND)):
        assert example in listed
        listed = listed.replace(example, address)
    (tmp_path / "fitserve-hosts").write_text(listed)
    (tmp_path / "nginx.conf").write_text(MAIN)
    exec_there = ("ip", "netns", "exec", namespace(PROXY))
    command = [*exec_there, "nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def served(root: Path, repository: Path, address: str) -> Iterator[Server]:
    """Serve on the host with this address during the block."""
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_ALLOWED_HOSTS": json.dumps([PROXY]),
    }
    in_namespace = ("ip", "netns", "exec", namespace(address))
    with (
        temporary_home() as home,
        serving(
            home, root, settings=settings, host=address, port=3000, under=in_namespace
        ) as server,
    ):
        yield server


def kill(server: Server) -> None:
    """Kill every process of the server, as a power failure would."""
    server.kill()
    server.process.wait(10)


async def test_one_host_is_killed_and_the_other_restarted_under_load(
    nginx: None, root: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_slow(repository, "slow", 3000)  # about 2 ms
    over = False
    killed, rolled = Tally(), Tally()

    def begin(tally: Tally) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(ask_on(tally, 80, "slow", lambda: over, PROXY))
            for _ in range(CLIENTS)
        ]

    async def serve_again(address: str) -> tuple[ExitStack, Server]:
        stack = ExitStack()
        opened = served(root, repository, address)
        return stack, await asyncio.to_thread(stack.enter_context, opened)

    async def load(first: Server, second: Server, stack: ExitStack) -> None:
        nonlocal over
        asking = begin(killed)
        await until(lambda: killed.right > 500)
        assert min(await asyncio.gather(done(first), done(second))) > 10, "one has no load"
        kill(first)
        answered = killed.right
        await until(lambda: killed.right > answered + 50, what="the other host does not serve")
        over = True
        await asyncio.gather(*asking)

        again, _ = await serve_again(FIRST)
        stack.push(again)
        await asyncio.sleep(FAIL_TIMEOUT_SECONDS)
        over = False
        asking = begin(rolled)
        await until(lambda: rolled.right > 500)
        workers = second.workers()
        second.process.terminate()
        await asyncio.to_thread(second.check_end, workers)
        again, second = await serve_again(SECOND)
        stack.push(again)
        async with asyncio.timeout(30):
            while await done(second) <= 10:  # noqa: ASYNC110 - counted in another process
                await asyncio.sleep(0.1)
        over = True
        await asyncio.gather(*asking)

    with ExitStack() as stack:
        first = stack.enter_context(served(root, repository, FIRST))
        second = stack.enter_context(served(root, repository, SECOND))
        await load(first, second, stack)
    print(f"killed with {CLIENTS} clients: {killed}")
    print(f"rolled: {rolled}")
    assert len(killed.lost) + killed.other.total() <= CLIENTS
    assert (rolled.right, rolled.lost, rolled.other) == (rolled.sent, [], {})


async def done(server: Server) -> int:
    """Return the number of predictions of a server."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        stats = (await client.get("/v2/models/slow/stats")).json()["model_stats"][0]
        return int(stats["inference_count"])
