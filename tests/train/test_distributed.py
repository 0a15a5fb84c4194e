"""Several processes training one stage."""

import json
import socket
import subprocess
import sys
from pathlib import Path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train(facts, identifier, size, only=None, **options):
    """Train with so many processes; `only` names the rank that the options are for. Exit codes and errors."""
    port = free_port()
    processes = []
    for rank in range(size):
        mine = {"root": str(facts.layout.root), "stage": identifier, "rank": rank, "size": size, "port": port}
        if only in (None, rank):
            mine |= options
        command = [sys.executable, str(Path(__file__).with_name("rank.py")), json.dumps(mine)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], errors


def test_x(make_study):
    facts = make_study()
    identifier = next(iter(facts.plan.nodes))
    codes, errors = train(facts, identifier, 2, only=1, stop_after=5)
    assert codes == [3, 3], errors
    codes, errors = train(facts, identifier, 2)
    assert codes == [0, 0], errors
