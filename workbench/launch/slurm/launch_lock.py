"""One launch at a time decides what is missing and submits it, and judges no claim that is still on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from workbench.study.files import exclusive
from workbench.study.layout import Layout


def launch_lock(layout: Layout, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """Hold the lock that lets one launch at a time decide and submit."""
    said: list[bool] = []

    def wait() -> None:
        if not said:
            said.append(True)
            say("another launch is submitting; waiting for it")

    return exclusive(layout.root / "launch.lock", wait)


def wait_to_settle(say: Callable[[str], None]) -> Callable[[float], None]:
    """Give what waits for the jobs of a launch that died while it submitted."""

    def wait(seconds: float) -> None:
        say(f"an earlier launch died while submitting; waiting {seconds:.0f} s for what it may have sent")
        time.sleep(seconds)

    return wait
