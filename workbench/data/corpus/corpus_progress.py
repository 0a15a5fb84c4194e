"""How far a corpus is: what is done of a phase, how fast, and how long the rest takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.phases import PHASES, Phase
from workbench.data.corpus.silent_owners import SilenceWatch

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and how much there is (None: unknown)."""

_LOOK_SECONDS = 0.5


@dataclass
class ProgressWatch:
    """Reads the records as they come, and says what they come to."""

    corpus: Corpus
    """What is built."""
    say: Progress
    """Told of every change."""
    _phase: int = 0
    _since: float = 0.0
    _before: int = 0
    _known: dict[str, int] = field(default_factory=dict)
    """Tokens by task of the phase that are done."""
    _said: str = ""
    _next: float = 0.0
    _silence: SilenceWatch = field(init=False)

    def __post_init__(self) -> None:
        """Begin to listen."""
        self._silence = SilenceWatch(self.corpus.folder.claims)

    def look(self) -> None:
        """Look at the phase that is being done, unless that was a moment ago, and say what has changed.

        Of a corpus that has ended nothing is said: another command may be deleting its records.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK_SECONDS
        with contextlib.suppress(FileNotFoundError):
            if not self.corpus.has_ended():
                self._look()

    def _look(self) -> None:
        while self._phase < len(PHASES):
            phase = PHASES[self._phase]
            tasks = phase.tasks(self.corpus)
            done = self.corpus.folder.done_in(phase.name)
            if len(done) < len(tasks):
                self._look_at(phase, tasks, done)
                return
            self._phase, self._since, self._known, self._said = self._phase + 1, 0.0, {}, ""

    def _look_at(self, phase: Phase, tasks: list[str], done: set[str]) -> None:
        now = time.monotonic()
        sizes = {task: self.corpus.by_name[task.partition("/")[2]].bytes if phase.by_bytes else 0 for task in tasks}
        finished = sum(sizes[task] for task in done)
        if not self._since:
            self._since, self._before = now, finished
            self._known = dict.fromkeys(done, 0)
        for task in done - set(self._known):
            self._known[task] = self.corpus.folder.read_record(task).facts.get("tokens", 0)
        text = phase.doing
        if phase.by_bytes:
            text += f": {len(done)} of {len(tasks)} shards" + self._speed(now, finished, sum(sizes.values()))
        waits = self._silence.describe()
        text += f"; {waits}" if waits else ""
        if text != self._said:
            self._said = text
            self.say(text, finished, sum(sizes.values()) if phase.by_bytes else None)

    def _speed(self, now: float, finished: int, total: int) -> str:
        """Speed since this process began with the phase; nothing is said before a task has ended."""
        seconds = now - self._since
        gained = finished - self._before
        if not gained or not seconds:
            return ""
        tokens = sum(self._known.values()) / seconds
        text = f", {gained / seconds / 1e6:,.1f} MB/s"
        text += f", {tokens:,.0f} tokens/s" if tokens else ""
        return f"{text}, {name_time((total - finished) * seconds / gained)} left"


def name_time(seconds: float) -> str:
    """Name a time in the unit that fits it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
