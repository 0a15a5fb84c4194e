"""The work of a corpus: its tasks done by processes of this machine, and what became of that written beside the store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from workbench.data.corpus.corpus_progress import Progress
from workbench.data.corpus.full_disk import naming_full_disk
from workbench.data.corpus.pipeline import Stopped
from workbench.data.fingerprint import data_fingerprint
from workbench.data.folders import MANIFEST
from workbench.data.store import Prepared, open_prepared, prepare
from workbench.kinds.corpus.source_files import record_files
from workbench.study.corpus_node import CorpusSpec
from workbench.study.layout import Layout
from workbench.train.attempt_status import write_status

_LINE_SECONDS = 30.0


class SpacedLines:
    """Says what is being done: when it is something else, and now and then how far it is."""

    def __init__(self, say: Callable[[str], None], seconds: float = _LINE_SECONDS) -> None:
        """Say lines about the same at most every `seconds`."""
        self._say, self._seconds, self._about, self._last = say, seconds, "", 0.0

    def __call__(self, text: str, done: int, total: int | None) -> None:
        """Say a line, if it is time; see `workbench.data.corpus.corpus_progress.Progress`."""
        about, now = text.partition(":")[0], time.monotonic()
        if about != self._about or now >= self._last + self._seconds:
            self._about, self._last = about, now
            self._say(text)


def run(spec: CorpusSpec, layout: Layout, progress: Progress, workers: int | None = None) -> Prepared:
    """Make a corpus, or go on with it where it was left; where it is made, open it.

    Parameters
    ----------
    spec, layout
        The corpus.
    progress
        Called now and then with what is being done.
    workers
        Processes; None takes one a core. The store does not depend on it.

    Raises
    ------
    ValueError
        An input is missing or damaged, or is not what it was when the study was planned.
    workbench.data.corpus.full_disk.NoSpaceError, workbench.data.corpus.pipeline.Stopped
        See `workbench.data.corpus.pipeline.build_corpus`.
    """
    directory = layout.data(spec.fingerprint)
    if (directory / MANIFEST).is_file():
        with contextlib.suppress(OSError):
            record_files(spec, layout)
        return open_prepared(directory)
    with attempt(layout, spec.fingerprint) as note:
        _refuse_changed(spec)
        lines = SpacedLines(note)

        def tell(text: str, done: int, total: int | None) -> None:
            lines(text, done, total)
            progress(text, done, total)

        prepared = prepare(spec.data, spec.tokenizer, layout, workers, tell)
        with contextlib.suppress(OSError):  # the next to open it tries again
            record_files(spec, layout)
    return prepared


def _refuse_changed(spec: CorpusSpec) -> None:
    found = data_fingerprint(spec.data, spec.tokenizer)
    if found != spec.fingerprint:
        raise ValueError(
            f"the inputs of data {spec.name!r} have changed since this was planned: their fingerprint is {found}, not "
            f"{spec.fingerprint}; plan again, or bring the files back"
        )


@contextmanager
def attempt(
    layout: Layout, fingerprint: str, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[Callable[[str], None]]:
    """Write beside a corpus that somebody works on it, and how that ended, for `workbench status`.

    Parameters
    ----------
    layout, fingerprint
        The corpus.
    is_stopped
        Whether this process was told to end, so that an error is no failure.

    Returns
    -------
    context manager
        Of a function that adds a line to the corpus's log.
    """
    place = layout.corpus(fingerprint)
    what = naming_full_disk(layout.root, fingerprint, "a note that it is made")

    def note(text: str) -> None:
        with contextlib.suppress(OSError), place.log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def end(state: str, error: BaseException, text: str) -> None:
        note(f"{state}: {text}")
        with contextlib.suppress(OSError):  # on a full disk what is raised says more
            write_status(place, state, text, error_class=type(error).__name__)

    with what:
        place.path.mkdir(parents=True, exist_ok=True)
        write_status(place, "running")
    try:
        yield note
    except KeyboardInterrupt as error:
        end("killed", error, str(error) if isinstance(error, Stopped) else "stopped; the same command goes on")
        raise
    except Exception as error:
        state = "killed" if is_stopped() else "failed"
        end(state, error, f"{type(error).__name__}: {error}")
        raise
    note("finished")
    with contextlib.suppress(OSError):  # the corpus is made, and says so itself
        write_status(place, "finished")
