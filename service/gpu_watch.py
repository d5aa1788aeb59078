"""Whether a GPU answers: a thread asks it for its memory, again and again.

A driver that hangs holds whoever asks for ever. So the thread belongs to nobody: neither the event
loop nor the end of the process waits for it.
"""

import threading
import time

from models.runtimes import brief
from service.telemetry.logs import logger

ASK_SECONDS = 0.5
ANSWER_SECONDS = 10.0
"""What a GPU that works answers in, however busy it is."""


class GpuWatch:
    """Asks one GPU from `start` to `stop`.

    Args:
        device: as `cuda:0`.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.memory: tuple[int, int] | None = None
        """The bytes that were free, and all, at the last answer; None until there is one."""
        self._fault = ""
        self._asked: float | None = None  # when, while the answer is not there
        self._stopped = threading.Event()

    @property
    def problem(self) -> str:
        """Why the GPU cannot be used; empty while it answers."""
        asked = self._asked
        if asked is not None and time.monotonic() - asked > ANSWER_SECONDS:
            return f"it has not answered for {ANSWER_SECONDS:g} s"
        return self._fault

    def start(self) -> None:
        """Begin to ask. Without torch, nothing is asked."""
        threading.Thread(target=self._ask, name=f"watch {self.device}", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _ask(self) -> None:
        try:
            from torch.cuda import mem_get_info  # it may take longer than a GPU may
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no torch to ask with
            logger.warning("%s is not watched, which needs torch: %s", self.device, error)
            return
        while not self._stopped.wait(ASK_SECONDS):
            self._asked = time.monotonic()
            try:
                self.memory = mem_get_info(self.device)
            except Exception as error:  # noqa: BLE001 - whatever it is, the GPU does not answer
                self._fault = brief(error) or type(error).__name__
            else:
                self._fault = ""
            self._asked = None
