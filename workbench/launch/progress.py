"""What a run shows while it goes: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from workbench.launch.planning import Facts
from workbench.train.hooks import Progress as StageProgress

_LINE_SECONDS = 20.0
"""Where there is no terminal, a line at most this often."""


class Display:
    """Bars for the whole study and for each stage that is training: tokens, tokens/s, loss, time left."""

    def __init__(self, facts: Facts, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.nodes = facts.plan.nodes
        self.todo = facts.tokens_to_train()
        self.total = sum(self.todo.values())
        self.done: dict[str, int] = {}
        self.bars: dict[str, TaskID] = {}
        self.evaluations: TaskID | None = None
        self.last_line = time.monotonic()
        self.began = time.monotonic()
        self.progress_bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[tokens]}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
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
        if not self.console.is_terminal and time.monotonic() - self.last_line > _LINE_SECONDS:
            self.last_line = time.monotonic()
            self.say(self._line(news))

    def evaluated(self, count: int) -> None:
        """Show how many checkpoints have been evaluated so far."""
        if self.evaluations is None:
            self.evaluations = self.progress_bars.add_task("evaluations", total=None, tokens="", speed="", loss="")
        self.progress_bars.update(self.evaluations, tokens=f"{count} done")
        if not self.console.is_terminal and time.monotonic() - self.last_line > _LINE_SECONDS:
            self.last_line = time.monotonic()
            self.say(f"{count} evaluations done")

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
            done = sum(self.done.values())
            text = f"{done / 1e6:.2f}M of {self.total / 1e6:.2f}M tokens"
            self.progress_bars.update(self.overall, completed=done, tokens=text)

    def _line(self, news: StageProgress) -> str:
        done, seconds = sum(self.done.values()), time.monotonic() - self.began
        left = seconds * (self.total - done) / done if done else float("nan")
        return (
            f"{done / 1e6:.2f}M of {self.total / 1e6:.2f}M tokens, about {left / 60:.0f} min left; "
            f"{self._label(news.stage)}: {news.tokens / 1e6:.2f}M tokens, "
            f"{news.tokens_per_second / 1e3:.1f}k tokens/s, loss {news.loss:.3f}"
        )
