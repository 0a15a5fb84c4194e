"""Signals of the scheduler as a flag that the work asks about at its own good moments.

USR2 comes before the time limit or a pre-emption: write a checkpoint and go back into the queue. TERM comes
from `scancel` or a pre-emption: write a checkpoint and end. A thread hears them through a pipe, so that they
are heard too while the main thread is inside a library's C++ code (a rendezvous, a compilation, a collective);
work that can be dropped at any moment is dropped there and then.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

REQUEUE_SIGNALS = (signal.SIGUSR2,)
END_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """Hears signals for one process.

    Parameters
    ----------
    leave
        Ends the process at once, putting the job back into the queue where `requeue` says so; called from a
        thread when the work may be dropped, or has not ended `patience_seconds` after the signal.
    patience_seconds
        Time the work has for a checkpoint.
    """

    def __init__(self, leave: Callable[[], None], patience_seconds: float) -> None:
        self._leave, self._patience = leave, patience_seconds
        self._asked, self._asking = threading.Event(), threading.Lock()
        self._orderly = threading.Event()
        self._ended = threading.Event()
        self._told_to_end = threading.Event()
        self.requeue = False

    def listen(self) -> None:
        """Begin; only the main thread may."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for number in (*REQUEUE_SIGNALS, *END_SIGNALS):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._hear, args=(reading,), daemon=True, name="signals").start()

    def is_asked(self) -> bool:
        """Whether the work is to end."""
        return self._asked.is_set()

    def end_orderly(self) -> None:
        """From now on the work ends by itself when it is asked to, and is not dropped at once."""
        self._orderly.set()

    def finish(self) -> None:
        """Say that the work has ended: nobody leaves in its stead any more."""
        self._ended.set()

    def expect_the_end(self) -> None:
        """From now on a TERM is the one that follows a requeue; those that came before are forgotten."""
        self._told_to_end.clear()

    def await_the_end(self, seconds: float) -> None:
        """Wait for the TERM that follows a requeue."""
        self._told_to_end.wait(seconds)

    def is_told_to_end(self) -> bool:
        """Whether a TERM has come since `expect_the_end`."""
        return self._told_to_end.is_set()

    def warn(self, patience_seconds: float, *, requeue: bool) -> None:
        """Act as if a signal had come: that before the time limit (`requeue`), or one that another rank has heard."""
        self._patience, self.requeue = patience_seconds, self.requeue or requeue
        self._ask()

    def _hear(self, reading: int) -> None:
        while True:
            number = os.read(reading, 1)[0]
            if number not in (*REQUEUE_SIGNALS, *END_SIGNALS):
                continue
            self.requeue = self.requeue or number in REQUEUE_SIGNALS
            if number in END_SIGNALS:
                self._told_to_end.set()
            self._ask()

    def _ask(self) -> None:
        with self._asking:
            if self._asked.is_set():
                return
            self._asked.set()
        threading.Thread(target=self._enforce, daemon=True).start()

    def _enforce(self) -> None:
        patience = self._patience if self._orderly.is_set() else 0.0
        if not self._ended.wait(patience):
            self._leave()
