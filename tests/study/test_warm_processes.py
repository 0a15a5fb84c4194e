"""A process forked from the server is like one that began on its own, but for the time."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from pathlib import Path

import pytest

from workbench.study.warm_processes import IMPORTED, warm_context

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process starts on its own")

COMMAND = """
import os, sys
from workbench.study.warm_processes import start_importing, warm_context

def say():
    import workbench.train.loop as loop
    print(loop.__file__, flush=True)

def wait():
    from multiprocessing import parent_process
from pathlib import Path
    print(os.getpid(), flush=True)
    parent_process().join(600)

if __name__ == "__main__":
    process = warm_context().Process(target=say if sys.argv[1] == "say" else wait)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def look():
    """What a process finds as it begins."""
    loaded = [name for name in IMPORTED if name in sys.modules]
    handler = signal.getsignal(signal.SIGINT)
    return (
        os.environ.get("WORKBENCH_MARK"),
        str(Path.cwd()),
        os.getpgrp(),
        loaded,
        handler is signal.default_int_handler,
    )


def test_it_has_its_makers_environment_folder_and_group(monkeypatch, tmp_path):
    with ProcessPoolExecutor(1, warm_context()) as pool:
        assert pool.submit(look).result()[0] is None
    monkeypatch.setenv("WORKBENCH_MARK", "set after the server began")
    monkeypatch.chdir(tmp_path)
    with ProcessPoolExecutor(1, warm_context()) as pool:
        mark, folder, group, loaded, interruptible = pool.submit(look).result()
    assert (mark, folder, group) == ("set after the server began", str(tmp_path), os.getpgrp())
    assert loaded == list(IMPORTED), "a name that the server could not import"
    assert interruptible


def be_a_parent(connection):
    connection.send(parent_process().pid)
    connection.recv()


def test_it_knows_who_made_it():
    context = warm_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=be_a_parent, args=(theirs,))
    process.start()
    assert ours.recv() == os.getpid()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def begin(tmp_path):
    """Start a command that makes a process of its own, in a folder with a module that is called like one of PyTorch's."""
    (tmp_path / "torch.py").write_text("raise SystemExit('the working directory was searched')")
    script = tmp_path / "scripts" / "command.py"
    script.parent.mkdir()
    script.write_text(COMMAND)

    def begin(what):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, str(script), what], cwd=tmp_path, text=True, start_new_session=True, **pipes
        )

    return begin


def test_the_working_directory_is_not_searched(begin):
    out, err = begin("say").communicate(timeout=60)
    assert (out.strip().endswith("loop.py"), err) == (True, "")


def test_interrupted_at_once_nothing_but_the_command_says_so(begin):
    process = begin("wait")
    time.sleep(1)  # while the server imports
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("Traceback") == 1, err


STARTS_CUDA = ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties")
IMPORTS = """
import importlib, sys, torch, torch.cuda
from workbench.study.warm_processes import IMPORTED

calls = []
for name in sys.argv[1:]:
    getattr(torch.cuda, name)
    setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
for name in IMPORTED:
    importlib.import_module(name)
print(calls)
"""


def test_nothing_that_the_server_imports_starts_cuda_which_no_fork_survives():
    done = subprocess.run([sys.executable, "-c", IMPORTS, *STARTS_CUDA], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_killed_with_its_group_nothing_is_left(begin):
    process = begin("wait")
    child = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until = time.monotonic() + 60
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
