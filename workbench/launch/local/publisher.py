"""Publishing beside the work, so that no tracking server can stop or slow it."""

from __future__ import annotations

import threading

from workbench.config.schema import TrackingConfig
from workbench.study.layout import Layout

_INTERVAL_SECONDS = 60.0
_LAST_SECONDS = 180.0


class Publisher:
    """A thread that publishes a study every minute and once more at the end.

    A failure is kept and told at the end; `workbench publish` then sends what is missing.
    """

    def __init__(self, layout: Layout, study: str, tracking: TrackingConfig) -> None:
        self._layout, self._study, self._tracking = layout, study, tracking
        self._done = threading.Event()
        self.error: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, if the configuration wants publishing at all."""
        if self._tracking.publish:
            self._thread.start()

    def finish(self) -> str | None:
        """Publish once more and stop; return what went wrong, None where nothing did.

        A server that answers, but slowly, is left after `_LAST_SECONDS`: what it lacks can be sent at any time.
        """
        if not self._tracking.publish:
            return "tracking.publish=false"
        self._done.set()
        self._thread.join(_LAST_SECONDS)
        if self._thread.is_alive():
            return f"the tracking server was still taking results after {_LAST_SECONDS:.0f} s"
        return self.error

    def _run(self) -> None:
        while not self._done.wait(_INTERVAL_SECONDS):
            self._publish()
        self._publish()

    def _publish(self) -> None:
        from workbench.tracking.mlflow import PublishError, publish_study

        try:
            publish_study(self._layout, self._study, self._tracking.uri, self._tracking.timeout_seconds)
        except PublishError as error:
            self.error = str(error)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
        else:
            self.error = None
