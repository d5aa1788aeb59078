"""Every setting of the service, read from the environment with the prefix `FITSERVE_`."""

import re
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

VERSION = "0.1.0"
Exposure = Literal["open", "key", "off"]
ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """What an operator may set; `FITSERVE_MAX_BATCH_ROWS=512` sets `max_batch_rows`."""

    model_config = SettingsConfigDict(env_prefix="FITSERVE_", frozen=True, extra="ignore")

    model_repository: Path = Field(ROOT / "models", description="the folder of the packages")
    runtime: Literal["auto", "onnx", "torchscript"] = Field(
        "auto", description="auto times both for each model at start, and takes the faster"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda:\d+)$",
        description="auto takes this worker's GPU where there is one, else the CPU",
    )
    require_device: bool = Field(
        False,
        description="whether it is not ready while a model has a runtime that cannot use its GPU",
    )
    threads: int = Field(
        0, ge=0, description="CPU threads for one batch; 0 takes this worker's share of the cores"
    )
    max_load_seconds: float = Field(
        300.0, gt=0, description="a package that takes longer to load is refused"
    )
    max_batch_rows: int = Field(
        256, ge=1, description="rows that are computed at once, as far as time and memory allow"
    )
    max_queue_rows: int = Field(
        16_384, ge=1, description="rows that may wait, for each model; more are refused with 503"
    )
    max_wait_seconds: float = Field(
        1.0, gt=0,
        description="a request that would wait longer for its turn, at the present pace, gets 503",
    )  # fmt: skip
    max_compute_seconds: float = Field(
        60.0, gt=0, description="a batch that computes for longer is given up, with 500"
    )
    max_delay_seconds: float = Field(
        0.0, ge=0, le=1, description="how long an idle model waits for more rows"
    )
    inline_seconds: float = Field(
        0.0002, ge=0, le=0.01,
        description="a batch of less compute stays on the event loop; 0 gives all to threads",
    )  # fmt: skip
    polling_seconds: float = Field(
        0.0002, ge=0, le=1,
        description="how long a worker stays awake for a client that asks again so soon; 0 lets it "
        "sleep",
    )  # fmt: skip
    timeout_seconds: float = Field(
        30.0, gt=0, description="how long a request may wait for its compute before its 504"
    )
    graceful_shutdown_seconds: float = Field(
        30.0, gt=0,
        description="how long a worker that is told to end may answer what it has begun; the rest "
        "is cut off",
    )  # fmt: skip
    max_connections: int = Field(
        10_000, ge=1, description="connections that a worker holds at once; more get 503"
    )
    max_header_bytes: int = Field(
        64 * 2**10, ge=1024, description="the largest line and headers of a request"
    )
    header_timeout_seconds: float = Field(
        10.0,
        gt=0,
        description="how long they may take to arrive, from the connection or their start",
    )
    max_body_bytes: int = Field(
        64 * 2**20, ge=1, description="the largest request body, decompressed"
    )
    max_bodies_bytes: int = Field(
        2**30, ge=1, description="what all bodies that arrive in parts may take together; else 503"
    )
    body_timeout_seconds: float = Field(
        30.0, gt=0, description="how long a body may take to arrive"
    )
    compress_from_bytes: int = Field(
        16 * 2**10, ge=0,
        description="an answer that is so large is compressed where Accept-Encoding asks for it; "
        "0 compresses none",
    )  # fmt: skip
    max_image_pixels: int = Field(40_000_000, ge=1, description="the largest uploaded picture")
    api_keys_file: Path | None = Field(
        None, description="the keys that are let in; without it everybody is, and only from here"
    )
    package_key: Path | None = Field(
        None, description="a public key (PEM); only packages that it signed are served then"
    )
    versions_file: Path | None = Field(
        None,
        description="where the highest version served of each signed package is kept; by default "
        "in the home of the user",
    )
    health: Exposure = Field("open", description="who may ask for health; off answers 404")
    metrics: Exposure = Field("open", description="who may ask for metrics; off answers 404")
    playground: Literal["open", "off"] = Field(
        "open", description="the page at /, for everybody; off answers 404"
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="web pages of these origins may ask, as a JSON list; '*' is every one"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="hosts that requests may name beside local ones, where no keys are asked for, "
        "as a JSON list; '*.example.com' is every subdomain, '*' every host",
    )
    log_format: Literal["console", "json"] = Field("console", description="how the log is written")
    access_log: float = Field(
        0.0,
        ge=0,
        le=1,
        description="the share of requests that get a line in the log; faults always do",
    )
    traces: float = Field(
        0.0, ge=0, le=1, description="the share of requests that are traced with OpenTelemetry"
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
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError("FITSERVE_MAX_BODIES_BYTES must be at least FITSERVE_MAX_BODY_BYTES")
        return self


def _is_host(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return re.fullmatch(r"[\w-]+(\.[\w-]+)*", text, re.ASCII) is not None
    return True


@cache
def current_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        SystemExit: one cannot be used; the process ends with one sentence.
    """
    try:
        return Settings()
    except SettingsError as error:  # only lists are read as JSON
        named = re.sub(r'.*field "(\w+)".*', lambda found: found[1].upper(), str(error))
        raise SystemExit(
            f'error: FITSERVE_{named} must be a JSON list of strings, such as ["a.example"]'
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = first["loc"][0] if first["loc"] else None
        named = f"FITSERVE_{str(field).upper()} is {first['input']!r}: " if field else ""
        raise SystemExit(f"error: {named}{first['msg'].removeprefix('Value error, ')}") from None
