"""Publishes studies from many processes at once, each again and again until a file says that all is written.

    python publishers.py OUTPUTS URI STUDY...

A process a study named. Prints a line of JSON a process: how often the server could not be reached.
MLflow takes over a second to import, so it is imported once and the processes are forked.
"""

import json
import os
import sys
import time
from pathlib import Path

from workbench.study.layout import Layout
from workbench.tracking.mlflow import PublishError, PublishReport, publish_study


def publish_until_all_is_there(layout: Layout, study: str, uri: str) -> int:
    refused = 0
    while True:
        complete = (layout.root / "complete").exists()
        try:
            report = publish_study(layout, study, uri, timeout_seconds=20)
        except PublishError:
            refused += 1
        else:
            # Nothing to send, after everything was on the disk: this process has seen all of it arrive.
            if complete and report == PublishReport():
                return refused
        time.sleep(0.2)


def main() -> None:
    root, uri, *studies = sys.argv[1:]
    import mlflow.tracking.client

    assert mlflow.tracking.client
    children = []
    for study in studies:
        pid = os.fork()
        if pid == 0:
            refused = publish_until_all_is_there(Layout(Path(root)), study, uri)
            sys.stdout.write(json.dumps({"study": study, "refused": refused}) + "\n")
            sys.stdout.flush()
            os._exit(0)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
