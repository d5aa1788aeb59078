"""The tokens of the texts of requests: of short texts at once, of others on threads.

The library `tokenizers` releases the interpreter's lock while it tokenizes, and the texts are given
to it in parts, between which the threads serve the callers in round-robin order.
"""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from models.kinds.padding import PaddingSpec
from models.kinds.tokens import Text, Tokenizer, Tokens
from service.batching.batch import Arrays
from service.errors import BadInputError, BodyTooLargeError
from service.processes.fair_semaphore import FairSemaphore

INLINE_CHARACTERS = 2_000
"""Texts of fewer characters take about a millisecond."""
PART_CHARACTERS = 2**16
"""Texts of so many characters take about 50 ms, for a millisecond of which the lock is held."""
MAX_TEXT_CHARACTERS = 2**17
MAX_CHARACTERS = 2**22
"""Of all texts of a request together."""
MAX_TEXTS = 4_096
MAX_NUMBERS = 2**22
"""The numbers of one input, with padding."""
THREADS = 2


class TextReader:
    """The tokenizer of one model, and its threads. Use it on one event loop.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizing")
        self._slots = FairSemaphore(THREADS, per_caller=THREADS)

    async def tokens(self, caller: str, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of the texts of a request.

        Args:
            caller: who sent them; the callers are served in round-robin order.
            texts: one or more.

        Raises:
            BadInputError: there are too many texts, or a text has no tokens.
            BodyTooLargeError: the texts have too many characters, or tokens with their padding.
        """
        check_texts(texts)
        if sum(map(characters, texts)) <= INLINE_CHARACTERS:
            found = self._tokenizer.tokens(texts)
        else:
            found, loop = [], asyncio.get_running_loop()
            for part in parts(texts):
                async with self._slots.slot(caller):
                    found += await loop.run_in_executor(self._threads, self._tokenizer.tokens, part)
        check_tokens(found)
        if len(found) * max(len(one.ids) for one in found) > MAX_NUMBERS:
            raise BodyTooLargeError(
                f"The texts have more than {MAX_NUMBERS:,} tokens when each is padded to the "
                "longest; send fewer at once."
            )
        return found

    def rows(self, tokens: Sequence[Tokens], padding: PaddingSpec | None) -> Arrays:
        """Return the inputs of texts of one length, or padded to one."""
        return self._tokenizer.rows(tokens, padding)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def check_tokens(tokens: Sequence[Tokens]) -> None:
    """Check that each text has a token.

    A row without places has no answer: alone it may end the process, and beside longer texts its
    answer is one of the padding.

    Raises:
        BadInputError: a text has no tokens.
    """
    if empty := [number for number, one in enumerate(tokens, start=1) if not len(one.ids)]:
        raise BadInputError(
            f"Text {empty[0]} has no tokens: send a text that is neither empty nor blank."
        )


def check_texts(texts: Sequence[Text]) -> None:
    """Check the number and the lengths of texts.

    Raises:
        BadInputError: there are too many.
        BodyTooLargeError: they have too many characters.
    """
    if len(texts) > MAX_TEXTS:
        raise BadInputError(
            f"The request has {len(texts):,} texts, and at most {MAX_TEXTS:,} are computed at once."
        )
    sizes = list(map(characters, texts))
    if max(sizes) > MAX_TEXT_CHARACTERS or sum(sizes) > MAX_CHARACTERS:
        raise BodyTooLargeError(
            f"A text may have {MAX_TEXT_CHARACTERS:,} characters, and all of a request "
            f"{MAX_CHARACTERS:,}; send less at once."
        )


def characters(text: Text) -> int:
    """Return the characters of a text or a pair."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def parts(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """Yield the texts in parts of at most `PART_CHARACTERS`, or one text."""
    part: list[Text] = []
    size = 0
    for text in texts:
        if part and size + characters(text) > PART_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(text)
        size += characters(text)
    if part:
        yield part
