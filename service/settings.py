"""Every setting of the service, read from the environment with the prefix `FITSERVE_`."""

import os
import re
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from models.package.repository import SHIPPED

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `service/`: the checkout, where there is one."""
Exposure = Literal["open", "key", "off"]
Weight = Annotated[float, Field(ge=0.1, le=10)]


class Settings(BaseSettings):
    """The settings of the service; `FITSERVE_MAX_BATCH_ROWS=512` sets `max_batch_rows`."""

    model_config = SettingsConfigDict(
        env_prefix="FITSERVE_", frozen=True, extra="ignore", populate_by_name=True
    )

    model_repository: Path = Field(SHIPPED, description="the folder of the packages")
    default_model: str | None = Field(
        None,
        description="the model of requests to /invocations that name none, and of Vertex AI's; by "
        "default the only one",
    )
    vertex_port: int | None = Field(
        None, ge=1, le=65_535, validation_alias="AIP_HTTP_PORT",
        description="the port, as Vertex AI sets it; --port and BENTOML_PORT go before it",
    )  # fmt: skip
    vertex_health_route: str | None = Field(
        None, pattern="^/.", validation_alias="AIP_HEALTH_ROUTE",
        description="a further path of GET /ping, as Vertex AI sets it",
    )  # fmt: skip
    vertex_predict_route: str | None = Field(
        None, pattern="^/.", validation_alias="AIP_PREDICT_ROUTE",
        description="a path of predictions of the default model, as Vertex AI sets it",
    )  # fmt: skip
    runtime: Literal["auto", "onnx", "torchscript", "pt2"] = Field(
        "auto",
        description="auto times those that each model has at start-up, and uses the fastest; onnx "
        "if all its batches are very short; pt2 is torch.export",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda:(0|[1-9][0-9]{0,2}))$",
        description="auto uses this worker's GPU if there is one, otherwise the CPU",
    )
    require_device: bool = Field(
        False,
        description="not ready while a runtime of a model cannot use its GPU",
    )
    intra_op_threads: int = Field(
        0, ge=0, description="CPU threads for one batch; 0 is this worker's share of the cores"
    )
    max_load_seconds: float = Field(
        300.0, gt=0, description="a package that takes longer to load is unavailable"
    )
    max_batch_rows: int = Field(
        256, ge=1, description="largest batch; smaller if time or memory require it"
    )
    max_queue_rows: int = Field(
        16_384,
        ge=1,
        description="rows computed for a request and before it, at most; otherwise it gets 503",
    )
    max_queue_seconds: float = Field(
        1.0, gt=0,
        description="a request with a longer expected wait in the queue gets 503",
    )  # fmt: skip
    max_compute_seconds: float = Field(
        60.0, gt=0, description="a batch that computes for longer is abandoned, with 500"
    )
    max_compute_bytes: int | None = Field(
        None, ge=2**26,
        description="memory for computing networks with free dimensions or control flow, on the "
        "CPU of each worker; by default a quarter of the memory available at start; a request that "
        "takes more gets 413",
    )  # fmt: skip
    max_queue_delay_seconds: float = Field(
        0.0, ge=0, le=1, description="how long an idle model waits for more rows"
    )
    inline_seconds: float = Field(
        0.001, ge=0, le=0.01,
        description="a batch with a shorter compute runs on the event loop; 0 uses threads for all",
    )  # fmt: skip
    busy_poll_seconds: float = Field(
        0.0002, ge=0, le=1,
        description="how long a worker polls for the next request of a client that sends one after "
        "another; 0 turns it off",
    )  # fmt: skip
    model_weights: dict[str, Weight] = Field(
        {},
        description="shares of a busy machine's cores by model, as JSON, between 0.1 and 10; 1 for "
        "the others",
    )
    timeout_seconds: float = Field(
        30.0, gt=0,
        description="how long a request may wait for its compute, and for its reading and writing "
        "in other processes; then 504",
    )  # fmt: skip
    graceful_shutdown_seconds: float = Field(
        30.0, gt=0,
        description="how long a worker may finish its requests after the signal to stop; then they "
        "are dropped",
    )  # fmt: skip
    max_connections: int = Field(10_000, ge=1, description="connections per worker; more get 503")
    max_header_bytes: int = Field(
        64 * 2**10, ge=1024, description="largest header of a request, its first line included"
    )
    header_timeout_seconds: float = Field(
        10.0,
        gt=0,
        description="how long a header may take, from its first byte or the connection's start",
    )
    keep_alive_seconds: int = Field(
        75, ge=1, description="how long a connection stays open without a request"
    )
    max_body_bytes: int = Field(64 * 2**20, ge=1, description="largest request body, decompressed")
    max_buffered_bytes: int = Field(
        2**30, ge=1, description="memory of all bodies being received in parts; more get 503"
    )
    body_timeout_seconds: float = Field(
        30.0, gt=0, description="how long a body may take to arrive"
    )
    max_parse_seconds: float = Field(
        10.0, gt=0,
        description="processor time for reading one body or picture; a longer one gets 413",
    )  # fmt: skip
    response_timeout_seconds: float = Field(
        30.0, gt=0,
        description="a client that reads less than 256 KiB of its response for this long is "
        "disconnected",
    )  # fmt: skip
    max_unread_bytes: int = Field(
        256 * 2**20, ge=1,
        description="memory of all responses that are not read; beyond it, the clients that have "
        "read nothing for longest are disconnected",
    )  # fmt: skip
    compress_from_bytes: int = Field(
        16 * 2**10, ge=0,
        description="smallest response that is compressed if Accept-Encoding allows it; "
        "0 compresses none",
    )  # fmt: skip
    max_image_pixels: int = Field(40_000_000, ge=1, description="largest uploaded picture")
    api_keys_file: Path | None = Field(
        None,
        description="the accepted keys; without a file, anyone who can reach the port may call the "
        "service, which binds to loopback",
    )
    package_public_key: Path | None = Field(
        None,
        description="a public key (PEM); if set, only packages signed with its key are served",
    )
    versions_file: Path | None = Field(
        None,
        description="file with the highest version served of each signed package; by default in "
        "the user's home directory",
    )
    timings_folder: Path | Literal["off"] | None = Field(
        None,
        description="folder with the timings of models, which make the next start faster; by "
        "default in the user's cache folder; off keeps none",
    )
    health: Exposure = Field("open", description="access to the health endpoints; off responds 404")
    metrics: Exposure = Field("open", description="access to the metrics; off responds 404")
    playground: Literal["open", "off"] = Field(
        "open", description="the pages at / and /docs, without a key; off responds 404"
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="origins of pages that may call the service, as a JSON list; '*' is every one",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="hosts that requests may name in addition to local ones, without API keys, as "
        "a JSON list; '*.example.com' is every subdomain, '*' every host",
    )
    log_format: Literal["console", "json"] = Field("console", description="format of the log")
    access_log_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of requests with a line in the log; faults always have one",
    )
    trace_sample_ratio: float = Field(
        0.0, ge=0, le=1, description="share of requests traced with OpenTelemetry"
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_have_no_scheme_and_no_port(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if host != "*" and not _is_host(host.removeprefix("*.")):
                raise ValueError(
                    f"{host!r} must be '*', a host name, '*.' and a domain, or an IP address, "
                    "without a scheme or port"
                )
        return hosts

    @model_validator(mode="after")
    def _queue_holds_a_batch(self) -> "Settings":
        if self.max_queue_rows < self.max_batch_rows:
            raise ValueError("FITSERVE_MAX_QUEUE_ROWS must be at least FITSERVE_MAX_BATCH_ROWS")
        return self

    @model_validator(mode="after")
    def _the_largest_body_fits(self) -> "Settings":
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError("FITSERVE_MAX_BUFFERED_BYTES must be at least FITSERVE_MAX_BODY_BYTES")
        return self


def _is_host(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return re.fullmatch(r"[\w-]+(\.[\w-]+)*", text, re.ASCII) is not None
    return True


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    field = Settings.model_fields.get(name)
    alias = field.validation_alias if field else name
    return alias if isinstance(alias, str) else f"FITSERVE_{name.upper()}"


RENAMED = {
    "ACCESS_LOG": "ACCESS_LOG_RATIO",
    "MAX_BODIES_BYTES": "MAX_BUFFERED_BYTES",
    "MAX_DELAY_SECONDS": "MAX_QUEUE_DELAY_SECONDS",
    "MAX_WAIT_SECONDS": "MAX_QUEUE_SECONDS",
    "PACKAGE_KEY": "PACKAGE_PUBLIC_KEY",
    "POLLING_SECONDS": "BUSY_POLL_SECONDS",
    "THREADS": "INTRA_OP_THREADS",
    "TRACES": "TRACE_SAMPLE_RATIO",
}
"""Old names of settings and their new names; the old ones are read until the next release."""


def old_names(environment: MutableMapping[str, str]) -> list[str]:
    """Rename the settings with old names in `environment`, and return one warning for each.

    A setting that has both names keeps the value of the new one.

    Args:
        environment: is modified, so child processes do not warn again.
    """
    warnings = []
    for old, new in RENAMED.items():
        old, new = f"FITSERVE_{old}", f"FITSERVE_{new}"
        if old not in environment:
            continue
        value = environment.pop(old)
        environment.setdefault(new, value)
        warnings.append(f"{old} is now called {new}: the old name is read until the next release")
    return warnings


RENAMED_WARNINGS = old_names(os.environ)
"""Logged after the log is set up, which needs the settings."""


SCOPE_KEY = "fitserve.settings"
"""The key of the settings in an ASGI scope, where `App` puts them."""


def settings_of(scope: Mapping[str, Any]) -> Settings:
    """Return the settings of an ASGI scope.

    They reach functions in this way that BentoML or Starlette calls with a request alone.
    """
    return cast(Settings, scope[SCOPE_KEY])


def read_settings() -> Settings:
    """Return the settings that the environment contains.

    Each program calls it once, and passes the settings on as an argument.

    Raises:
        SystemExit: a setting is invalid; the process ends with one sentence.
    """
    try:
        return Settings()
    except SettingsError as error:  # raised for lists and weights, which are read as JSON
        name = re.sub(r'.*field "(\w+)".*', r"\1", str(error))
        form = 'list of strings, such as ["a.example"]'
        if name == "model_weights":
            form = 'object of numbers, such as {"mnist-cnn": 4}'
        raise SystemExit(f"error: FITSERVE_{name.upper()} must be a JSON {form}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = first["loc"][0] if first["loc"] else None
        prefix = f"{variable_of(str(field))} is {first['input']!r}: " if field else ""
        raise SystemExit(f"error: {prefix}{first['msg'].removeprefix('Value error, ')}") from None
