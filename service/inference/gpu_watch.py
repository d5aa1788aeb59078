"""A monitor of one GPU: a thread that queries its memory at intervals.

A driver that hangs blocks its caller forever. The thread is therefore a daemon: neither the event
loop nor the end of the process waits for it.
"""

import threading
import time

from models.runtimes.runtime import one_line
from service.telemetry.logs import logger

ASK_SECONDS = 0.5
ANSWER_SECONDS = 10.0
"""A working GPU responds within this time, however busy it is."""


class GpuWatch:
    """Monitors one GPU from `start` to `stop`.

    Args:
        device: such as `cuda:0`.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.memory: tuple[int, int] | None = None
        """The free and total bytes at the last response; None before the first."""
        self._fault = ""
        self._asked: float | None = None  # time of the pending query; None without one
        self._stopped = threading.Event()

    @property
    def problem(self) -> str:
        """Why the GPU cannot be used; empty while it responds."""
        pending_since = self._asked
        if pending_since is not None and time.monotonic() - pending_since > ANSWER_SECONDS:
            return f"no response for {ANSWER_SECONDS:g} s"
        return self._fault

    def start(self) -> None:
        """Start the queries. Without torch, the GPU is not monitored."""
        threading.Thread(target=self._ask, name=f"watch {self.device}", daemon=True).start()

    def stop(self) -> None:
        """Stop the queries."""
        self._stopped.set()

    def _ask(self) -> None:
        try:
            from torch.cuda import mem_get_info  # the import can take longer than `ANSWER_SECONDS`
        except Exception as error:  # noqa: BLE001 - any error: torch cannot be used
            logger.warning("%s is not monitored, which needs torch: %s", self.device, error)
            return
        while not self._stopped.wait(ASK_SECONDS):
            self._asked = time.monotonic()
            try:
                self.memory = mem_get_info(self.device)
            except AssertionError as error:  # raised by torch without CUDA
                logger.warning("%s is not monitored, which needs torch: %s", self.device, error)
                self._asked = None
                return
            except Exception as error:  # noqa: BLE001 - any error: the GPU does not respond
                self._fault = one_line(error) or type(error).__name__
            else:
                self._fault = ""
            self._asked = None
