"""How a process died: an out-of-memory kill is told from any other."""

import signal

import pytest

from workbench.launch.local import death
from workbench.study.causes import MEMORY, OTHER, cause_of


@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("0::/job/step", "sys/fs/cgroup/job/step/memory.events"),
        ("5:cpu,memory:/job\n1:cpuset:/", "sys/fs/cgroup/memory/job/memory.oom_control"),
        ("0::/elsewhere", "proc/vmstat"),
        (None, "proc/vmstat"),
    ],
)
def test_kills_are_counted_where_the_system_says(tmp_path, group, file):
    (tmp_path / "proc/self").mkdir(parents=True)
    if group is not None:
        (tmp_path / "proc/self/cgroup").write_text(group + "\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("low 0\noom_group_kill 4\noom_kill 3\n")
    assert death.memory_kills(tmp_path) == 3


def test_where_nothing_says_it_is_not_known(tmp_path):
    assert death.memory_kills(tmp_path) is None


@pytest.mark.parametrize(
    ("code", "before", "after", "cause", "says"),
    [
        (-signal.SIGKILL, 3, 4, MEMORY, "the kernel killed its process for lack of memory"),
        (-signal.SIGKILL, 3, 3, OTHER, "does not report as lack of memory"),
        (-signal.SIGKILL, None, None, OTHER, "SIGKILL"),
        (-signal.SIGSEGV, 3, 4, OTHER, "SIGSEGV"),
        (1, 3, 4, OTHER, "exit code 1"),
        (255, 3, 3, OTHER, "the server that it was forked from has ended"),
    ],
)
def test_how_a_process_ended(monkeypatch, code, before, after, cause, says):
    monkeypatch.setattr(death, "memory_kills", lambda: after)
    problem = death.describe(code, before)
    assert cause_of(problem.error_class) == cause
    assert says in problem.error
