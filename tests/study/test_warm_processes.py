"""A process forked from the server is like one that began on its own, but for the time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import pytest

from workbench.config.compose import PROJECT_ROOT
from workbench.study.warm_processes import FORK, IMPORTED, warm_context

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process starts on its own")

COMMAND = """
import multiprocessing, os, sys
from workbench.study import warm_processes
from workbench.study.warm_processes import start_importing, warm_context

def say():
    import workbench.train.loop as loop
    print(loop.__file__, flush=True)

def wait():
    print(os.getpid(), flush=True)
    multiprocessing.parent_process().join(600)

if __name__ == "__main__":
    if "for long" in sys.argv:
        warm_processes.IMPORTED = ("takes_long",)
    assert start_importing()
    print("importing", flush=True)
    if sys.argv[1] == "refuse":
        sys.exit("refused")
    process = warm_context().Process(target={"say": say, "wait": wait}[sys.argv[1]])
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def look():
    """What a process finds as it begins."""
    return {
        "mark": os.environ.get("WORKBENCH_MARK"),
        "safe path": os.environ.get("PYTHONSAFEPATH"),
        "folder": str(Path.cwd()),
        "group": os.getpgrp(),
        "imported": [name for name in IMPORTED if name in sys.modules],
        "interruptible": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM},
    }


def test_it_has_its_makers_environment_folder_and_group(monkeypatch, tmp_path):
    with ProcessPoolExecutor(1, warm_context()) as pool:
        assert pool.submit(look).result()["mark"] is None
    monkeypatch.setenv("WORKBENCH_MARK", "set after the server began")
    monkeypatch.chdir(tmp_path)
    with ProcessPoolExecutor(1, warm_context()) as pool:
        assert pool.submit(look).result() == {
            "mark": "set after the server began",
            "safe path": os.environ.get("PYTHONSAFEPATH"),
            "folder": str(tmp_path),
            "group": os.getpgrp(),
            "imported": list(IMPORTED),
            "interruptible": True,
            "blocked": set(),
        }


@pytest.mark.parametrize("name", ["HF_HOME", "OMP_NUM_THREADS"])
def test_what_a_library_reads_as_it_is_imported_is_never_old(name, monkeypatch):
    assert isinstance(warm_context(), ForkServerContext)
    monkeypatch.setenv(name, "7")
    assert isinstance(warm_context(), SpawnContext)
    monkeypatch.undo()
    assert isinstance(warm_context(), ForkServerContext)
    monkeypatch.setenv(FORK, "0")
    assert isinstance(warm_context(), SpawnContext)


def be_a_child(connection):
    connection.send(parent_process().pid)
    connection.recv()


def test_it_knows_who_made_it_and_tells_how_it_ended():
    context = warm_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=be_a_child, args=(theirs,))
    process.start()
    assert ours.recv() == os.getpid()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def begin(tmp_path):
    """Start a command that makes a process, in a working directory with a module that is called like one of PyTorch's."""
    (tmp_path / "torch.py").write_text("raise SystemExit('the working directory was searched')")
    script = tmp_path / "scripts" / "command.py"
    script.parent.mkdir()
    script.write_text(COMMAND)
    script.with_name("takes_long.py").write_text("import time\ntime.sleep(600)\n")
    started = []

    def begin(*what):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, str(script), *what]
        started.append(subprocess.Popen(command, cwd=tmp_path, text=True, start_new_session=True, **pipes))
        assert started[-1].stdout.readline() == "importing\n"
        return started[-1]

    yield begin
    for process in started:
        if is_there(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


EXITING = 0x4
"""Linux's flag of a process on its way out: it closes its files first, so whoever reads its output may be sooner."""


def is_there(group):
    """Whether a process group has processes, other than those that are ending or that nobody has waited for."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its, _, _, _, flags = file.read_text().rpartition(")")[2].split()[:7]
        except OSError:
            continue
        if int(its) == group and state != "Z" and not int(flags) & EXITING:
            return True
    return False


def test_the_working_directory_is_not_searched(begin):
    out, err = begin("say").communicate(timeout=300)
    assert (out.strip(), err) == (str(PROJECT_ROOT / "workbench" / "train" / "loop.py"), "")


def test_another_checkouts_command_has_processes_with_its_code(begin, tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT_ROOT / "workbench", tmp_path / "scripts" / "workbench", ignore=ignored)
    out, err = begin("say").communicate(timeout=300)
    assert (out.strip(), err) == (str(tmp_path / "scripts" / "workbench" / "train" / "loop.py"), "")


@pytest.mark.parametrize(
    ("stop", "tracebacks", "imports"),
    # A command that SIGTERM ends leaves the server to end itself, once it has imported.
    [(signal.SIGINT, 1, ["for long"]), (signal.SIGTERM, 0, [])],
)
def test_stopped_while_the_server_imports_nothing_but_the_command_says_so(stop, tracebacks, imports, begin):
    process = begin("wait", *imports)
    os.killpg(process.pid, stop)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -stop
    assert err.count("Traceback") == tracebacks, err
    assert not is_there(process.pid)


def test_a_command_that_is_refused_does_not_wait_for_the_server(begin):
    process = begin("refuse", "for long")
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "refused\n")
    assert not is_there(process.pid)


def test_killed_with_its_group_nothing_is_left(begin):
    process = begin("wait")
    process.stdout.readline()  # the other's
    os.killpg(process.pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while is_there(process.pid):
        assert time.monotonic() < until
        time.sleep(0.05)


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
