"""What to do about a failure, decided on the class of its error."""

from dataclasses import fields

import pytest

from workbench.config import schema
from workbench.study.causes import DISK, DIVERGED, INPUT, MEMORY, NETWORK, OTHER, advise, cause_of, is_repeatable
from workbench.train.step import NonFiniteLossError


def test_the_class_decides_and_not_the_text():
    assert cause_of(NonFiniteLossError.__name__) == DIVERGED
    assert cause_of("ValueError") == INPUT
    assert cause_of("OutOfMemoryError") == cause_of("KilledForMemoryError") == MEMORY
    assert cause_of("DiskFullError") == cause_of("NoSpaceError") == DISK
    assert cause_of("HubOutOfReachError") == cause_of("OutOfReachError") == NETWORK
    assert not is_repeatable(DISK)
    assert not is_repeatable(NETWORK)
    assert cause_of(None) == cause_of("RuntimeError") == OTHER
    assert cause_of("KeyError") == cause_of("AssertionError") == OTHER  # ours to mend, and no input's
    assert [is_repeatable(cause) for cause in (DIVERGED, INPUT, MEMORY, OTHER, None)] == [True, True] + [False] * 3


def test_each_cause_is_one_line_that_names_its_stages():
    lines = advise([("m1 trunk a", DIVERGED), ("m1 trunk b", DIVERGED), ("m3 trunk c", MEMORY), ("m3 trunk d", OTHER)])
    assert [line.split(" diverged")[0].split(" ran")[0] for line in lines] == ["m1 trunk a, m1 trunk b", "m3 trunk c"]
    assert "optimizer.learning_rate" in lines[0]
    assert "launch" not in lines[0]
    assert "and 15 more diverged" in advise([(f"stage {n}", DIVERGED) for n in range(20)])[0]
    assert advise([("corpus x", NETWORK)])[0].startswith("corpus x could not reach what the message names")
    assert advise([("m1 trunk a", OTHER), ("m1 trunk b", None)]) == []


@pytest.mark.parametrize("group", ["optimizer", "recipe", "numerics"])
def test_settings_that_the_advice_names_exist(group):
    kinds = {"optimizer": schema.OptimizerConfig, "recipe": schema.RecipeConfig, "numerics": schema.NumericsConfig}
    words = " ".join(advise([("a", DIVERGED), ("b", MEMORY)])).replace(":", " ").replace(",", " ").split()
    named = {word.split("=")[0].strip("()").partition(".")[2] for word in words if word.strip("()").startswith(group)}
    assert named
    assert named <= {field.name for field in fields(kinds[group])}
