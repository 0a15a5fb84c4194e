"""Memory and processor's time of a process and all its descendants, watched from a thread (Linux)."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Watched:
    """What was seen; shared pages count for each process that has them in its resident memory."""

    peak_sum: int = 0
    """Most resident bytes of all processes together."""
    peak_one: int = 0
    """Most resident bytes of one process."""
    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds by label."""
    processor: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of the processor by label, of all processes."""


@contextmanager
def watched(label: Callable[[], str], every: float = 0.05) -> Iterator[Watched]:
    """Watch this process, its children and theirs; what passes between two looks goes to the label of the first."""
    seen = Watched()
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(seen, label, every, ended), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _watch(seen: Watched, label: Callable[[], str], every: float, ended: threading.Event) -> None:
    before, used, name = time.monotonic(), {}, label()
    for pid, (ticks, _) in _family().items():
        used[pid] = ticks
    while True:
        last = ended.wait(every)
        family = _family()
        now = time.monotonic()
        resident = [pages for _, pages in family.values()]
        seen.peak_sum = max(seen.peak_sum, sum(resident) * _PAGE)
        seen.peak_one = max([seen.peak_one, *(pages * _PAGE for pages in resident)])
        seen.processor[name] += sum(max(0, ticks - used.get(pid, 0)) for pid, (ticks, _) in family.items()) / _TICKS
        seen.wall[name] += now - before
        used.update({pid: ticks for pid, (ticks, _) in family.items()})
        before, name = now, label()
        if last:
            return


def _family() -> dict[int, tuple[int, int]]:
    """Ticks of the processor and resident pages of this process and its descendants."""
    found: dict[int, tuple[int, int]] = {}
    children: dict[int, list[int]] = defaultdict(list)
    facts: dict[int, tuple[int, int]] = {}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(fields[1])].append(int(place.name))
        facts[int(place.name)] = int(fields[11]) + int(fields[12]), int(fields[21])
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        if pid in facts:
            found[pid] = facts[pid]
        waiting += children[pid]
    return found
