import pytest

from analysis.figures.points import direction
from analysis.metrics import is_higher_better, lower_is_better

LOWER = ("loss", "val_loss", "validation loss", "eval/loss", "heldout/prose/nats_per_token", "error", "ppl")
LOWER_TASKS = ("lambada_openai/perplexity", "heldout/prose/bits_per_byte", "wikitext/word_perplexity")
HIGHER = ("piqa/acc", "gsm8k/exact_match/strict-match", "accuracy", "val_acc", "squad/f1", "mmlu_x/acc_norm")
UNKNOWN = ("crows_pairs/pct_stereotype", "l", "task/my_score", "crows_pairs/likelihood_difference")


@pytest.mark.parametrize("metric", [*LOWER, *LOWER_TASKS])
def test_lower_is_better(metric):
    assert lower_is_better(metric)
    assert is_higher_better(metric) is False
    assert direction(metric) == "(lower is better)"


@pytest.mark.parametrize("metric", HIGHER)
def test_higher_is_better(metric):
    assert not lower_is_better(metric)
    assert direction(metric) == "(higher is better)"


@pytest.mark.parametrize("metric", UNKNOWN)
def test_unknown_direction_is_refused_unless_said(metric):
    assert is_higher_better(metric) is None
    with pytest.raises(ValueError, match=f"metric '{metric}': it is unknown whether lower or higher is better"):
        lower_is_better(metric)
    assert lower_is_better(metric, unknown=True)
    assert not lower_is_better(metric, unknown=False)
    assert direction(metric) == ""


def test_figures_read_the_same_table():
    from analysis import style

    assert style.lower_is_better is lower_is_better
