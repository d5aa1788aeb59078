"""Forms with pictures: multipart/form-data in, the values of its fields out.

A large form is read in another process, which imports this module.
"""

import asyncio
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

from service.errors import BadInputError
from service.json_body import Body
from service.processes.jobs import whole

MAX_FILES = 1_000

FEW_PARTS = 100
"""A form of more parts is read in another process, however small it is."""


async def read_form(body: Body, content_type: bytes) -> list[tuple[str, bytes | str]]:
    """Return the name and the value of each field, in order; the value of a file is its content.

    Args:
        body: of the request.
        content_type: `multipart/form-data` with its boundary.

    Raises:
        BadInputError: the form cannot be read, or has more than `MAX_FILES` files.
    """
    scope = {"type": "http", "headers": [(b"content-type", content_type)]}
    content = bytes(body)

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    try:
        async with Request(scope, receive).form(max_files=MAX_FILES) as form:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except MultiPartException as error:
        raise BadInputError(f"The form cannot be read: {error.message}") from error


def read_large_form(body: bytearray, content_type: bytes) -> list[tuple[str, Any]]:
    """Read as `read_form` does, in another process."""
    values = asyncio.run(read_form(body, content_type))
    return [(name, value if isinstance(value, str) else whole(value)) for name, value in values]
