"""Of a long stage MLflow gets about a thousand rows, the same ones whenever it is published."""

import itertools
import json
import sqlite3

import pytest
from outputs_tree import BATCH_TOKENS, make_study, row_of

from workbench.tracking import spool
from workbench.tracking.mlflow import publish_study
from workbench.tracking.thinning import ALL_UPTO, is_sent


def sent(rows):
    return [number for number in range(1, rows + 1) if is_sent(number, number, ())]


def test_first_rows_are_all_sent_and_later_ones_evenly_in_the_logarithm():
    assert sent(ALL_UPTO) == list(range(1, ALL_UPTO + 1))
    assert [len(sent(rows)) for rows in (2_000, 20_000, 1_000_000)] == [1_032, 1_137, 1_319]
    late = [number for number in sent(1_000_000) if number > ALL_UPTO]
    gaps = [after / before for before, after in itertools.pairwise(late)]
    assert 1 + 1 / 64 <= min(gaps) <= max(gaps) <= 1 + 1 / 32
    assert sent(5_000) == [number for number in sent(1_000_000) if number <= 5_000]


def test_checkpoints_are_sent():
    assert not is_sent(1_001, 7, (8,))
    assert is_sent(1_001, 8, (8,))


@pytest.fixture
def long(root):
    """A trunk of 2,400 steps with milestones at 1,500 and 1,501, of which nothing is published yet."""
    made = make_study(root, sizes={"m0_03": 30_000}, budgets=(6_000_000,), row_every=1, evaluated=False)
    file = made.layout.study_file(made.study)
    plan = json.loads(file.read_text())
    trunk = next(iter(plan["stages"]))
    plan["stages"][trunk]["wanted"].append(1_501 * BATCH_TOKENS)
    file.write_text(json.dumps(plan))
    return made, made.layout.stage(trunk)


def stored_steps(layout, stage):
    query = """select metrics.step from metrics join tags on tags.run_uuid = metrics.run_uuid and tags.key = 'stage'
               where metrics.key = 'train/loss' and tags.value = ? order by metrics.step"""
    connection = sqlite3.connect(layout.database)
    found = [step for (step,) in connection.execute(query, (stage.id,)).fetchall()]
    connection.close()
    return found


def expected_steps():
    return sorted({*sent(2_400), 1_500, 1_501, 2_400})


def test_a_stage_published_at_its_end(long):
    made, stage = long
    publish_study(made.layout, made.study)
    assert stored_steps(made.layout, stage) == expected_steps()
    assert len(spool.read_rows(stage.path)) == 2_400
    assert publish_study(made.layout, made.study).rows == 0


def test_a_stage_published_while_it_trains_and_is_interrupted(long):
    """Checkpoints come and go where a clock says, and rows after the last are written again with other times."""
    made, stage = long
    last = stage.list_checkpoints()[-1]
    manifest = json.loads((last / "manifest.json").read_text())
    for checkpoint in stage.list_checkpoints():
        (checkpoint / "manifest.json").unlink()
    stage.metrics.unlink()
    done = 0
    for step in (7, 999, 1_003, 1_007, 1_499, 1_777, 2_400):
        with spool.MetricsWriter(stage.metrics) as writer:
            for number in range(done + 1, step + 1):
                writer.write(row_of(number, 30_000))
            for number in range(step + 1, min(step + 40, 2_401)):  # lost by the interruption
                writer.write(row_of(number, 40_000, offset=500.0))
        clock = stage.checkpoint(step)
        clock.mkdir(exist_ok=True)
        (clock / "manifest.json").write_text(json.dumps(manifest | {"step": step, "tokens": step * BATCH_TOKENS}))
        publish_study(made.layout, made.study)
        spool.truncate_after(stage.metrics, step)
        (clock / "manifest.json").rename(clock / "superseded")
        done = step
    assert stored_steps(made.layout, stage) == expected_steps()
