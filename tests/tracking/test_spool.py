import json

import pytest

from workbench.tracking import spool


def row(step):
    return {"step": step, "tokens": step * 10, "time": 1.5 + step, "train/loss": 1 / step}


@pytest.mark.parametrize(
    ("task", "metric", "name"),
    [
        ("heldout_prose", "bits_per_byte,none", "heldout/prose/bits_per_byte"),
        ("heldout_prose", "bits_per_byte_stderr,none", "heldout/prose/bits_per_byte_stderr"),
        ("heldout_my_code_last_word", "acc,none", "heldout/my_code/last_word/acc"),
        ("heldout_prose_continuation", "acc,none", "heldout/prose/continuation/acc"),
        ("piqa", "acc_norm,none", "piqa/acc_norm"),
        ("gsm8k", "exact_match,strict-match", "gsm8k/exact_match/strict-match"),
        ("odd,task:1", "acc", "odd_task_1/acc"),
        ("position_c_headers", "0064-0127/bits_per_byte,none", "position/c_headers/0064-0127/bits_per_byte"),
        ("position_prose", "0000-0015/bits_per_byte_stderr,none", "position/prose/0000-0015/bits_per_byte_stderr"),
    ],
)
def test_metric_name(task, metric, name):
    assert spool.metric_name(task, metric) == name


def test_rows_come_back_exactly(tmp_path):
    rows = [row(step) for step in range(1, 8)]
    with spool.MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        for one in rows:
            writer.write(one)
        writer.sync()
    assert spool.read_rows(tmp_path) == rows
    assert spool.read_rows(tmp_path, upto_step=3) == rows[:3]


def test_a_row_is_on_disk_before_the_next(tmp_path):
    writer = spool.MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(row(1))
    assert spool.read_rows(tmp_path) == [row(1)]
    writer.close()


def test_no_file_has_no_rows(tmp_path):
    assert spool.read_rows(tmp_path) == []
    assert spool.truncate_after(tmp_path / "metrics.jsonl", 5) is None


def test_row_without_time_is_refused(tmp_path):
    with spool.MetricsWriter(tmp_path / "metrics.jsonl") as writer, pytest.raises(ValueError, match="lacks time"):
        writer.write({"step": 1, "tokens": 10})


@pytest.mark.parametrize("tail", ['{"step": 6, "tok', '{"step": 6, "tok\n', "\x00\x00\x00\n", ""])
def test_truncate_drops_later_and_half_written_rows(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row(step)) + "\n" for step in range(1, 6)) + tail)
    assert spool.read_rows(tmp_path) == [row(step) for step in range(1, 6)]
    assert spool.truncate_after(path, 3) == 3
    assert path.read_text() == "".join(json.dumps(row(step)) + "\n" for step in range(1, 4))
    with spool.MetricsWriter(path) as writer:
        writer.write(row(4))
    assert [one["step"] for one in spool.read_rows(tmp_path)] == [1, 2, 3, 4]


def test_truncate_to_before_the_first_row_empties(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(row(4)) + "\n")
    assert spool.truncate_after(path, 0) is None
    assert path.read_text() == ""


def test_steps_that_do_not_grow_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row(step)) + "\n" for step in (1, 2, 2)))
    with pytest.raises(ValueError, match="step 2 follows step 2"):
        spool.read_rows(tmp_path)
