"""MLflow's pages of a study."""

import json
from urllib.parse import parse_qs

import pytest
from outputs_tree import make_study

from workbench.tracking.connection import default_uri
from workbench.tracking.mlflow import publish_study
from workbench.tracking.pages import CHART, KIND, PAGE_TAGS, TRAINING, settle_page, study_addresses


class Store:
    """Tags of one experiment."""

    def __init__(self, tags):
        self.tags = tags

    def get_experiment(self, experiment):
        return self

    def set_experiment_tag(self, experiment, key, value):
        self.tags[key] = value


@pytest.mark.parametrize("kind", [None, "no_inferred_type", "genai_development_inferred"])
def test_an_earlier_experiment_becomes_one_of_training(kind):
    store = Store({} if kind is None else {KIND: kind})
    settle_page(store, "1")
    assert store.tags == PAGE_TAGS
    assert store.tags[KIND] == TRAINING


def test_a_kind_that_somebody_chose_stays():
    store = Store({KIND: "regression"})
    settle_page(store, "1")
    assert store.tags == {**PAGE_TAGS, KIND: "regression"}


def test_a_published_study_has_its_page(root):
    from mlflow import MlflowClient

    made = make_study(root, sizes={"m0_03": 30_000}, budgets=(250_000,), evaluated=False)
    publish_study(made.layout, made.study)
    tags = MlflowClient(tracking_uri=default_uri(made.layout)).get_experiment_by_name(made.study).tags
    assert PAGE_TAGS.items() <= tags.items()
    assert all(len(value) < 5000 for value in tags.values())  # MLflow's limit of an experiment's tag


def test_the_view_is_of_loss_against_tokens():
    view = json.loads(PAGE_TAGS[f"mlflow.sharedViewState.{CHART}"])
    [chart] = view["compareRunCharts"]
    assert (chart["metricKey"], chart["selectedXAxisMetricKey"]) == ("train/loss", "train/tokens")
    assert chart["metricSectionId"] == view["compareRunSections"][0]["uuid"]


def test_addresses_say_model_training():
    pages = study_addresses("http://127.0.0.1:5000/", "7", PAGE_TAGS)
    assert list(pages) == ["runs", "loss against tokens"]
    for address in pages.values():
        page, _, query = address.partition("?")
        assert page == "http://127.0.0.1:5000/#/experiments/7/runs"
        assert parse_qs(query)["workflowType"] == ["machine_learning"]
    assert parse_qs(pages["runs"].partition("?")[2])["searchFilter"] == ["tags.kind = 'stage'"]
    assert parse_qs(pages["loss against tokens"].partition("?")[2])["viewStateShareKey"] == [CHART]
    assert list(study_addresses("http://x", "7", {})) == ["runs"]
