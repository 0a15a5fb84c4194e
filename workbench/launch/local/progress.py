"""What a run shows while it goes: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from workbench.forecast.estimate import Estimate, missing_evaluations
from workbench.forecast.study_facts import Facts
from workbench.launch.console import format_seconds
from workbench.train.hooks import Progress as StageProgress

_LINE_SECONDS = 20.0
"""Where there is no terminal, a line at most this often."""
_TRUSTED_SHARE = 0.05
"""Share of the work that must be done before the time it took corrects the estimate of the rest."""


class TimeLeft:
    """How long the rest of a run takes: by the speeds that were measured, and by how they held so far.

    Parameters
    ----------
    estimate
        Made before the run; without training speeds, tokens alone count.
    todo
        Tokens to train, by stage.
    """

    def __init__(self, estimate: Estimate | None, todo: Mapping[str, int]) -> None:
        known = estimate is not None and estimate.training_seconds is not None
        self._training = dict(estimate.training_seconds or {}) if known and estimate else dict(todo)
        self._evaluation = dict(estimate.evaluation_seconds) if known and estimate else {}
        self._seconds = self._wall(estimate) if known and estimate else None
        self._todo = todo

    @staticmethod
    def _wall(estimate: Estimate) -> float:
        return (estimate.seconds or 0.0) - estimate.fixed_seconds - estimate.corpora_seconds

    def seconds(self, elapsed: float, tokens: Mapping[str, int], scored: Mapping[str, float]) -> float | None:
        """Give the time left, in seconds; None while too little is known.

        Parameters
        ----------
        elapsed
            Seconds since the first training or evaluation was given out.
        tokens
            Tokens trained so far, by stage.
        scored
            Share of a stage's missing evaluations that have been made, by stage.
        """
        total = sum(self._training.values()) + sum(self._evaluation.values())
        done = sum(self._training[s] * n / self._todo[s] for s, n in tokens.items() if self._todo[s])
        done += sum(self._evaluation.get(s, 0.0) * share for s, share in scored.items())
        share = min(1.0, done / total) if total else 1.0
        if share >= _TRUSTED_SHARE:
            return elapsed * (1 - share) / share
        return None if self._seconds is None else max(0.0, self._seconds * (1 - share))


class Display:
    """Bars for the whole study and for each stage that is training: tokens, tokens/s, loss, time left."""

    def __init__(self, facts: Facts, estimate: Estimate | None = None, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.nodes = facts.plan.nodes
        self.todo = facts.tokens_to_train()
        self.total = sum(self.todo.values())
        self.done: dict[str, int] = {}
        missing = missing_evaluations(facts)
        self.missing = {stage: sum(suites.values()) for stage, suites in missing.items()}
        self.scored: dict[str, int] = {}
        self.time_left = TimeLeft(estimate, self.todo)
        self.bars: dict[str, TaskID] = {}
        self.last_line = time.monotonic()
        self.began = time.monotonic()
        self.progress_bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[tokens]}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[loss]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Display:
        self.progress_bars.start()
        if self.total:
            self.overall = self.progress_bars.add_task("study", total=self.total, tokens="", speed="", loss="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress_bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def progress(self, news: object) -> None:
        """Show how far a stage is."""
        assert isinstance(news, StageProgress)
        left = news.end_tokens - news.tokens
        self.done[news.stage] = max(0, self.todo[news.stage] - left)
        self._move_bar(news)
        self._move_overall()
        self._line(self._detail(news))

    def evaluated(self, stage: str) -> None:
        """Count an evaluation of a stage's checkpoint."""
        self.scored[stage] = self.scored.get(stage, 0) + 1
        self._move_overall()
        self._line("")

    def begin(self) -> None:
        """Start the clock: the first training or evaluation is being given out."""
        self.began = time.monotonic()

    def finish(self, stage: str) -> None:
        """Take a stage's bar away."""
        self.done[stage] = self.todo[stage]
        if stage in self.bars:
            self.progress_bars.remove_task(self.bars.pop(stage))
        self._move_overall()

    def _label(self, stage: str) -> str:
        node = self.nodes[stage]
        return f"{node.stage.model.name} {node.stage.name} {node.stage.end_tokens / 1e6:.3g}M"

    def _move_bar(self, news: StageProgress) -> None:
        fields = {
            "completed": news.tokens - news.start_tokens,
            "tokens": f"{news.tokens / 1e6:.2f}M tokens",
            "speed": f"{news.tokens_per_second / 1e3:.1f}k tokens/s",
            "loss": f"loss {news.loss:.3f}",
        }
        if news.stage not in self.bars:
            length = news.end_tokens - news.start_tokens
            self.bars[news.stage] = self.progress_bars.add_task(self._label(news.stage), total=length, **fields)
        self.progress_bars.update(self.bars[news.stage], **fields)

    def _move_overall(self) -> None:
        if self.total:
            self.progress_bars.update(self.overall, completed=sum(self.done.values()), tokens=self._summary())

    def _summary(self) -> str:
        """Say what is done of all, and the time left."""
        evaluations = sum(self.missing.values())
        parts = [f"{sum(self.done.values()) / 1e6:.2f}M of {self.total / 1e6:.2f}M tokens"] if self.total else []
        parts += [f"{sum(self.scored.values())} of {evaluations} evaluations"] if evaluations else []
        return ", ".join([*parts, self._left()])

    def _left(self) -> str:
        shares = {stage: min(1.0, n / self.missing[stage]) for stage, n in self.scored.items() if stage in self.missing}
        seconds = self.time_left.seconds(time.monotonic() - self.began, self.done, shares)
        return "time left not known yet" if seconds is None else f"about {format_seconds(seconds)} left"

    def _line(self, detail: str) -> None:
        if not self.console.is_terminal and time.monotonic() - self.last_line > _LINE_SECONDS:
            self.last_line = time.monotonic()
            self.say("; ".join(part for part in (self._summary(), detail) if part))

    def _detail(self, news: StageProgress) -> str:
        return (
            f"{self._label(news.stage)}: {news.tokens / 1e6:.2f}M tokens, "
            f"{news.tokens_per_second / 1e3:.1f}k tokens/s, loss {news.loss:.3f}"
        )
