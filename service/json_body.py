"""JSON request bodies."""

from typing import Any

import orjson

from service.errors import BadInputError

Body = bytes | bytearray
"""The bytes of a request body."""

MAX_LISTS = 1_000_000
MAX_OBJECTS = 10_000
MAX_STRINGS = 100_000
"""The most values of each kind in one body; its numbers are limited by its size alone."""


def check_structure(body: bytes | bytearray) -> None:
    """Check a large body before values are made of it: each takes many times its bytes of memory.

    Raises:
        BadInputError: the body has more lists, objects or strings than any message.
    """
    for kind, sign, limit in (
        ("lists", b"[", MAX_LISTS),
        ("objects", b"{", MAX_OBJECTS),
        ("strings", b'"', 2 * MAX_STRINGS),
    ):
        if body.count(sign) > limit:
            raise BadInputError(
                f"The body has too many {kind}; send flat lists of numbers, or fewer rows."
            )


def parse_json(body: Body | memoryview) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises:
        BadInputError: the body is not a JSON object.
        MemoryError: the memory is too short for its values.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Not enough memory"):
            raise MemoryError(error.msg) from None
        raise BadInputError(f"The body is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BadInputError("The body must be a JSON object.")
    return content


def may_hold_booleans(body: Body) -> bool:
    """Return whether the JSON may contain `true` or `false`, which Python treats as 1 and 0.

    A search of the bytes is faster than a check of each value. Both words end in "e", which digits
    do not contain, so the search stops at the last "e".
    """
    end = body.rfind(b"e") + 1
    return body.find(b"true", 0, end) >= 0 or body.find(b"false", 0, end) >= 0
