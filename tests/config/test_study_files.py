"""A study's file: the launcher, the groups and the Hydra settings that it asks for count, or are refused in one line."""

import pytest

from workbench.config.compose import CONFIG_DIR, composer
from workbench.config.schema import PathsConfig

HEAD = "# @package _global_\nstudy: mine\n"
SLURM = "defaults:\n  - override /hydra/launcher: slurm\n"


@pytest.fixture
def launcher(tmp_path):
    """What the launcher is for a study's file and further overrides."""

    def ask(text, *overrides):
        (tmp_path / "mine.yaml").write_text(HEAD + text)
        with composer(tmp_path) as hydra:
            return hydra.launcher(["experiments=mine", *overrides])

    return ask


@pytest.fixture
def refusal(tmp_path):
    """Why a study's file with further overrides is refused."""

    def ask(text, *overrides):
        (tmp_path / "mine.yaml").write_text(HEAD + text)
        with composer(tmp_path) as hydra, pytest.raises(ValueError, match=r"^[^\n]+$") as error:
            hydra.points(["experiments=mine", *overrides])
        return str(error.value)

    return ask


def test_a_studys_launcher_counts(launcher):
    assert launcher(SLURM).kind == "slurm"
    assert launcher("").kind == "local"


def test_the_command_lines_launcher_wins(launcher):
    assert launcher(SLURM, "hydra/launcher=local").kind == "local"
    assert launcher("", "hydra/launcher=slurm").kind == "slurm"


def test_a_launchers_settings_in_a_studys_file_count(launcher):
    assert launcher("hydra: {launcher: {workers: 1}}\n").workers == 1
    assert launcher("hydra: {launcher: {workers: 1}}\n", "hydra.launcher.workers=3").workers == 3
    assert launcher("").workers is None
    assert launcher(SLURM + "hydra: {launcher: {wait: true}}\n").waits
    assert not launcher(SLURM).waits


def test_the_primary_config_overrides_no_group():
    """What it overrides, no study's file can: Hydra takes the first override that it meets."""
    assert "override" not in (CONFIG_DIR / "config.yaml").read_text().split("study: scratch")[0]


def test_other_groups_of_hydra_in_a_studys_file_count(tmp_path):
    text = "defaults:\n  - override /hydra/job_logging: stdout\n  - override /hydra/hydra_logging: disabled\n"
    (tmp_path / "mine.yaml").write_text(HEAD + text)
    with composer(tmp_path) as hydra:
        choices = hydra.master(["experiments=mine"]).hydra.runtime.choices
        assert (choices["hydra/job_logging"], choices["hydra/hydra_logging"]) == ("stdout", "disabled")
        choices = hydra.master([]).hydra.runtime.choices
        assert (choices["hydra/job_logging"], choices["hydra/hydra_logging"]) == ("none", "none")


@pytest.mark.parametrize(
    ("text", "overrides", "quoted"),
    [
        ("defaults: [override hydra/launcher: slurm]\n", [], "override /hydra/launcher"),
        ("hydra: {launcher: {workers: 1}}\n", ["hydra/launcher=slurm"], "workers"),
        ("hydra: {launcher: {wait: true}}\n", [], "wait"),
        ("hydra: {launcher: {workers: two}}\n", [], "two"),
        ("hydra: {launcher: {use_idle_cores: 1}}\n", [], "use_idle_cores=1 must be true or false"),
        ("hydra: {launcher: {use_idle_cores: true}}\n", ["hydra/launcher=slurm"], "use_idle_cores"),
        ("hydra: {launcher: {workers: 0}}\n", [], "0"),
        (SLURM + "hydra: {launcher: {wait: often}}\n", [], "often"),
        ("defaults: [override /hydra/launcher: basic]\n", [], "basic"),
        ("hydra: {mode: RUN}\n", [], "hydra.mode"),
        ("", ["hydra.mode=RUN"], "hydra.mode"),
        ("hydra: {sweeper: {max_batch_size: 1}}\n", [], "max_batch_size"),
        ("hydra: {sweeper: {_target_: some.Sweeper}}\n", [], "some.Sweeper"),
        ("defaults: [override /hydra/sweeper: optuna]\n", [], "optuna"),
        ("hydra:\n  sweeper:\n    params: {seed: '0,1'}\n    params: {seed: '2,3'}\n", [], "params"),
        ("hydra: {sweeper: {params: {seed: '0,1'}}}\n", ["++seed=5"], "++seed=5"),
        ("hydra: {sweeper: {params: {optimizer: {learning_rate: '0.1,0.2'}}}}\n", [], "optimizer.learning_rate"),
        ("", ["hydra.searchpath=[file:///tmp]"], "--experiments"),
    ],
)
def test_what_cannot_count_is_refused(refusal, text, overrides, quoted):
    assert quoted in refusal(text, *overrides)


def test_axes_of_a_study_and_of_the_one_it_builds_on_join(tmp_path):
    (tmp_path / "mine.yaml").write_text(HEAD + "hydra: {sweeper: {params: {seed: '0,1'}}}\n")
    (tmp_path / "more.yaml").write_text(
        "# @package _global_\ndefaults: [mine, _self_]\nstudy: more\nhydra: {sweeper: {params: {tokens: '500000,1000000'}}}\n"
    )
    with composer(tmp_path) as hydra:
        names = [point.name for point in hydra.points(["experiments=more"])]
    assert names == [f"seed={seed},tokens={tokens}" for seed in (0, 1) for tokens in (500000, 1000000)]


@pytest.mark.parametrize("folder", ["mine", "experiments", "with, comma and 'quotes' [1] $x %20"])
def test_groups_in_a_users_folder_are_found(tmp_path, folder):
    root = tmp_path / folder
    (root / "cluster").mkdir(parents=True)
    (root / "cluster" / "ours.yaml").write_text("defaults: [base_cluster, _self_]\nname: ours\n")
    (root / "mine.yaml").write_text("# @package _global_\ndefaults: [override /cluster: ours]\nstudy: mine\n")
    with composer(root) as hydra:
        [point] = hydra.points(["experiments=mine"])
    assert point.config.cluster.name == "ours"


def test_a_users_file_that_the_projects_would_hide_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m0_1.yaml").write_text("defaults: [base_model, _self_]\n")
    with pytest.raises(ValueError, match=r"^[^\n]*model/m0_1\.yaml[^\n]*$"), composer(tmp_path):
        pass


def test_outputs_that_no_address_could_name_are_refused():
    with pytest.raises(ValueError, match=r"^paths\.outputs=[^\n]*UTF-8[^\n]*$"):
        PathsConfig("/data/\udcff")
