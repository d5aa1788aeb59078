"""The servers of the benchmark: configuration, start and endpoints.

Every server has one worker process on 127.0.0.1, with batching if the server supports batching.
Some are measured with two worker processes as well. All compute `mnist-mlp/1` on the CPU with ONNX
Runtime and the same thread settings, except that fitserve selects its runtime.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.payloads import NESTED, ONE_IMAGE, TYPED, V2_JSON, PayloadFormat, v2_binary

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Row:
    """A row of the tables: a server, an endpoint and a payload format."""

    name: str
    path: str
    payload_format: PayloadFormat


@dataclass(frozen=True)
class Server:
    """A server. Placeholders in braces are replaced at the start.

    The placeholders are `{root}` (the checkout), `{folder}` (the server's folder in `peers/`),
    `{home}` (a temporary folder, the working directory), `{bin}` (of its environment), `{model}`
    (the ONNX file), and `{port}`, `{port2}` to `{port5}` (free ports),
    and `{workers}` (the number of worker processes).

    Attributes:
        name: the name of the server and of its environment.
        description: the configuration, on one line.
        libraries: the libraries whose versions are reported.
        command: the command that starts the server.
        rows: the endpoints to measure.
        ready: the path that returns 200 if the server is ready.
        prepare: a command to run before the start.
        settings: environment variables.
        peer: whether the server has its own virtual environment.
        workers: the numbers of worker processes to measure.
    """

    name: str
    description: str
    libraries: tuple[str, ...]
    command: str
    rows: tuple[Row, ...]
    ready: str
    prepare: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    peer: bool = True
    workers: tuple[int, ...] = (1,)


class ServerError(Exception):
    """A server that cannot be installed or does not start, or whose outputs are wrong."""


def row_name(row: Row, workers: int) -> str:
    """Return the name of `row` in the tables, for a number of worker processes."""
    return row.name if workers == 1 else f"{row.name}, {workers} workers"


V2_PATH = "/v2/models/mnist-mlp/infer"
TYPED_JSON = Row("fitserve, typed JSON", "/classify_digits", TYPED)
OURS = Row("fitserve, V2 JSON", V2_PATH, V2_JSON)
BINARY = Row("fitserve, V2 binary", V2_PATH, v2_binary(1))
BARE_UVICORN = Row("bare uvicorn, V2 JSON", V2_PATH, V2_JSON)
MINIMAL = Row("minimal server, V2 JSON", V2_PATH, V2_JSON)
STOCK = Row("BentoML, stock", "/predict", NESTED)
FASTAPI = Row("FastAPI", "/predict", ONE_IMAGE)
LITSERVE = Row("LitServe", "/predict", ONE_IMAGE)
MLSERVER = Row("MLServer", V2_PATH, V2_JSON)
RAY_SERVE = Row("Ray Serve", "/predict", ONE_IMAGE)
TRITON = Row("Triton, JSON", V2_PATH, V2_JSON)
TRITON_BINARY = Row("Triton, binary", V2_PATH, v2_binary(1))
MOSEC_8 = Row("mosec, batches of 8", "/8", ONE_IMAGE)
MOSEC_32 = Row("mosec, batches of 32", "/32", ONE_IMAGE)
TORCHSERVE = Row("TorchServe", "/predictions/mnist-mlp", ONE_IMAGE)

FITSERVE = Server(
    name="fitserve",
    description="`bentoml serve` from the checkout, every other setting at its default",
    libraries=("bentoml", "onnxruntime-gpu", "torch", "uvicorn", "starlette"),
    command="{bin}/bentoml serve {root} --host 127.0.0.1 --port {port}",
    rows=(OURS, BINARY, TYPED_JSON),
    ready="/readyz",
    settings={
        "BENTOML_HOME": "{home}",
        "BENTOML_DO_NOT_TRACK": "True",
        # BentoML 1.4 supports `--api-workers` for its legacy services only.
        "BENTOML_CONFIG_OPTIONS": "services.fitserve.workers={workers}",
    },
    peer=False,
    workers=(1, 2),
)

SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in (
        FITSERVE,
        Server(
            name="bare-uvicorn",
            description="fitserve's V2 handler on uvicorn, uvloop and httptools, without BentoML",
            libraries=("uvicorn", "uvloop", "httptools"),
            command="{bin}/python -m uvicorn --app-dir {root} benchmarks.serving.bare_uvicorn:app "
            "--loop uvloop --http httptools --host 127.0.0.1 --port {port} --no-access-log "
            "--log-level warning",
            rows=(BARE_UVICORN,),
            ready="/v2/health/ready",
            peer=False,
        ),
        Server(
            name="minimal-server",
            description="uvloop, httptools, orjson and ONNX Runtime, without validation, limits "
            "and metrics: an upper bound",
            libraries=("uvloop", "httptools", "orjson"),
            command="{bin}/python -m benchmarks.serving.minimal_server {port}",
            rows=(MINIMAL,),
            ready="/",
            settings={"PYTHONPATH": "{root}"},
            peer=False,
        ),
        Server(
            name="fastapi",
            description="pydantic lists, an async handler that calls ONNX Runtime, uvicorn with "
            "uvloop and httptools, no access log, no batching",
            libraries=("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "onnxruntime"),
            command="{bin}/uvicorn --app-dir {folder} server:app --host 127.0.0.1 --port "
            "{port} --workers {workers} --no-access-log --log-level warning",
            rows=(FASTAPI,),
            ready="/openapi.json",
            workers=(1, 2),
        ),
        Server(
            name="litserve",
            description="one API server, one inference worker, batches of up to 64 waiting "
            "requests, no access log",
            libraries=("litserve", "fastapi", "uvicorn", "uvloop", "onnxruntime"),
            command="{bin}/python {folder}/server.py {port}",
            rows=(LITSERVE,),
            ready="/health",
        ),
        Server(
            name="mlserver",
            description="custom runtime, batches of 64 within 0.5 ms, inference in the server's "
            "own process, no access log, no metrics",
            libraries=("mlserver", "fastapi", "uvicorn", "uvloop", "onnxruntime"),
            command="{bin}/mlserver start {folder}",
            rows=(MLSERVER,),
            ready="/v2/models/mnist-mlp/ready",
            settings={"MLSERVER_HTTP_PORT": "{port}", "MLSERVER_GRPC_PORT": "{port2}"},
        ),
        Server(
            name="ray-serve",
            description="one replica, `@serve.batch` of 64 within 2 ms, its throughput settings, "
            "HAProxy before it, no access log, no dashboard",
            libraries=("ray", "uvicorn", "starlette", "onnxruntime"),
            command="{bin}/python {folder}/server.py {port} {model} {home}/ray",
            rows=(RAY_SERVE,),
            ready="/-/healthz",
            settings={
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_ENABLE_HA_PROXY": "1",
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{home}/haproxy/haproxy.cfg",
                "RAY_SERVE_HAPROXY_SOCKET_PATH": "{home}/haproxy/admin.sock",
                "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "{home}/haproxy/metrics.sock",
                "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{home}/haproxy",
                "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{home}/haproxy/server-state",
                "RAY_SERVE_HAPROXY_METRICS_PORT": "{port2}",
                "RAY_SERVE_HAPROXY_STATS_PORT": "{port3}",
            },
        ),
        Server(
            name="triton",
            description="a model of the Python backend with ONNX Runtime, an instance for each "
            "worker, dynamic batches of up to 64 without a delay, two HTTP threads, no metrics",
            libraries=("nvidia-pytriton", "numpy", "onnxruntime"),
            command="{bin}/python {folder}/server.py {port} {workers}",
            rows=(TRITON, TRITON_BINARY),
            ready="/v2/health/ready",
            workers=(1, 2),
        ),
        Server(
            name="mosec",
            description="orjson and ONNX Runtime in the workers, batches of up to 8 or 32 within "
            "1 ms, logs of errors only",
            libraries=("mosec", "orjson", "onnxruntime"),
            command="{bin}/python {folder}/server.py {workers} --address 127.0.0.1 --port {port} "
            "--log-level error",
            rows=(MOSEC_8, MOSEC_32),
            ready="/",
            workers=(1, 2),
        ),
        Server(
            name="torchserve",
            description="one worker, batches of 64 within 1 ms, a handler with ONNX Runtime, "
            "token authorisation off, a queue for every connection, logs of warnings only",
            libraries=("torchserve", "torch", "onnxruntime"),
            prepare="{bin}/torch-model-archiver --model-name mnist-mlp --version 1 --handler "
            "{folder}/server.py --extra-files {model} --config-file "
            "{folder}/model-config.yaml --export-path {home}",
            command="{bin}/torchserve --start --foreground --no-config-snapshots --model-store "
            "{home} --models mnist-mlp.mar --ts-config {folder}/config.properties "
            "--log-config {folder}/log4j2.xml",
            rows=(TORCHSERVE,),
            ready="/ping",
            settings={
                "TEMP": "{home}",
                "TS_INFERENCE_ADDRESS": "http://127.0.0.1:{port}",
                "TS_MANAGEMENT_ADDRESS": "http://127.0.0.1:{port2}",
                "TS_METRICS_ADDRESS": "http://127.0.0.1:{port3}",
                "TS_GRPC_INFERENCE_PORT": "{port4}",
                "TS_GRPC_MANAGEMENT_PORT": "{port5}",
            },
        ),
        Server(
            name="bentoml-stock",
            description="`@bentoml.api(batchable=True)` on arrays as in its documentation, "
            "batches of 64 within 1 s, its defaults otherwise",
            libraries=("bentoml", "uvicorn", "starlette", "onnxruntime"),
            command="{bin}/bentoml serve --working-dir {folder} server:Mnist --host 127.0.0.1 "
            "--port {port}",
            rows=(STOCK,),
            ready="/readyz",
            settings={"BENTOML_HOME": "{home}", "BENTOML_DO_NOT_TRACK": "True"},
        ),
    )
}
