import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis import style
from analysis.figures import token_scaling_figure
from analysis.load import FRAME_COLUMNS
from analysis.reference import tinyllama_milestones
from analysis.tasks import task_curves

TOKENS = [1e9 * 2**power for power in range(9)]


def curve(model, size, values, metric="piqa/acc_norm", stderr=0.005):
    facts = dict.fromkeys(FRAME_COLUMNS) | {"study": "s", "model": model, "stage": model, "trajectory": model}
    facts |= {"params_non_embedding": size, "params": size, "annealed": False, "metric": metric, "point": model}
    frame = pd.DataFrame({"tokens": TOKENS, "value": values, "stderr": stderr * np.ones(9)})
    return frame.assign(**{key: value for key, value in facts.items() if key not in frame.columns})


@pytest.fixture
def frame():
    """One curve that rises, one that falls at its end, one at chance."""
    rising = np.linspace(0.55, 0.8, 9)
    falls = np.array([*rising[:6], 0.6, 0.6, 0.6])
    return pd.concat([curve("large", 900, rising), curve("small", 90, falls), curve("tiny", 9, np.full(9, 0.5))])


def test_marks_are_drawn_and_named(frame):
    figure, points = token_scaling_figure(frame, "piqa/acc_norm", judged=task_curves(frame))
    axes = figure.axes[0]
    orange = [line for line in axes.get_lines() if to_hex(line.get_color()) == style.HELD_OUT]
    assert [list(line.get_xdata()) for line in orange] == [[TOKENS[5], TOKENS[6]]]
    assert list(orange[0].get_ydata()) == pytest.approx([frame["value"].iloc[5], 0.6])
    texts = [text.get_text() for text in axes.texts]
    assert "falls beyond the noise (orange): small\nsaturated: small\nat chance: tiny" in texts
    assert "chance" in texts
    assert len(points) == 27


def test_a_model_whose_cooled_down_points_learn_is_not_at_chance(frame):
    """Its trunk alone may not have left chance yet."""
    judged = task_curves(frame)
    tiny = judged[judged["model"] == "tiny"]
    assert tiny["at_chance"].tolist() == [True]
    cooled = tiny.assign(curve="cooled_down", at_chance=False)
    figure, _ = token_scaling_figure(frame, "piqa/acc_norm", judged=pd.concat([judged, cooled]))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert not [text for text in texts if "at chance" in text]
    assert [text for text in texts if "saturated: small" in text]


def test_nothing_is_marked_without_judgements(frame):
    figure, _ = token_scaling_figure(frame, "piqa/acc_norm")
    assert not figure.axes[0].texts
    assert style.HELD_OUT not in {to_hex(line.get_color()) for line in figure.axes[0].get_lines()}


def test_a_reference_is_laid_over_where_it_has_the_metric(frame):
    figure, points = token_scaling_figure(frame, "piqa/acc_norm", overlay=tinyllama_milestones())
    laid = points.loc[points["role"] == "reference"]
    assert set(laid["study"]) == {"reference/tinyllama"}
    assert laid["tokens"].tolist() == [103e9, 503e9, 1007e9, 1.5e12, 2e12, 2.5e12, 3e12]
    assert laid["value"].tolist() == pytest.approx([0.673, 0.6942, 0.6991, 0.7165, 0.7067, 0.7307, 0.7329])
    assert figure.axes[0].get_xlim()[1] > 3e12


def test_perplexities_of_untrained_models_get_a_log_axis():
    values = np.geomspace(1e6, 10, 9)
    wide = curve("m", 9, values, "lambada_openai/perplexity", values / 50)
    figure, _ = token_scaling_figure(wide, "lambada_openai/perplexity", judged=task_curves(wide))
    assert figure.axes[0].get_yscale() == "log"
    narrow = wide.assign(value=np.linspace(20, 10, 9))
    assert token_scaling_figure(narrow, "lambada_openai/perplexity")[0].axes[0].get_yscale() == "linear"
