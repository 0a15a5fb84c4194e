"""Signals that ask a process to stop, heeded where that leaves nothing behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruptions:
    """Whether somebody asked to stop; `KeyboardInterrupt` is raised only in work that may be broken off."""

    def __init__(self) -> None:
        """Nobody did."""
        self._is_asked = self._may_raise = False

    def ask(self, number: int, frame: Any) -> None:
        """Handle a signal."""
        self._is_asked = True
        if self._may_raise:
            raise KeyboardInterrupt

    def is_asked(self) -> bool:
        """Whether somebody asked."""
        return self._is_asked

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if somebody asked."""
        if self._is_asked:
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Do work that may be broken off at any place."""
        self._may_raise = True
        try:
            self.check()
            yield
        finally:
            self._may_raise = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Do what may not be broken off inside of work that may be: a signal raises at its end."""
        before, self._may_raise = self._may_raise, False
        try:
            yield
        finally:
            self._may_raise = before
        if before:
            self.check()

    @contextmanager
    def heeding(self, *numbers: signal.Signals) -> Iterator[None]:
        """Handle signals; a thread that is not the main one cannot, and leaves them to others."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
