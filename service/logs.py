"""The service's log. It stands under BentoML's, to share its handlers and its level."""

import logging

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

logger = logging.getLogger("bentoml.fitserve")

# What BentoML writes into every record, our request's id overwritten with its own.
_BENTOML = ("levelname_bracketed", "component", "trace_msg", "service_name", "request_id")


def log_in_json() -> None:
    """Write every line of this process as one JSON object: ours, BentoML's and uvicorn's.

    Its fields are `time`, `level`, `logger`, `message`, and what the line is about.
    """
    formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        rename_fields={
            "asctime": "time",
            "levelname": "level",
            "name": "logger",
            "exchange_id": "request_id",
        },
        reserved_attrs=[*RESERVED_ATTRS, *_BENTOML],
    )
    for name in (None, "bentoml", "uvicorn", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
