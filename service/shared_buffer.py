"""Memory that callers share, so that no caller takes the share of the others.

A caller may have at most as many bytes as are free: the dynamic threshold of Choudhury and Hahne
("Dynamic queue length thresholds for shared-memory packet switches", 1998). One caller gets half of
the memory, each of two a third, and something is left for the next one.
"""

from collections import Counter


class SharedBuffer:
    """The sizes of what is held in memory, by caller.

    Args:
        max_bytes: of all callers.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._taken: Counter[str] = Counter()

    def take(self, caller: str, size: int, *, earlier: int = 0) -> bool:
        """Take bytes for a body, unless they are too many for this caller or for all.

        The only body of a caller may take what is free, and the only one of all whatever it needs.

        Args:
            caller: whose body it is.
            size: of the body, or of its next part.
            earlier: the bytes of its earlier parts, which were taken before.

        Returns:
            Whether the bytes were taken; if so, `give_back` must follow.
        """
        taken = self._taken[caller]
        is_only_one = taken == earlier
        if self._taken and (size > self._free or not (is_only_one or taken + size <= self._free)):
            return False
        self._taken[caller] += size
        self._free -= size
        return True

    def give_back(self, caller: str, size: int) -> None:
        """Give back all bytes of a body."""
        self._taken[caller] -= size
        self._free += size
        if self._taken[caller] <= 0:
            del self._taken[caller]
