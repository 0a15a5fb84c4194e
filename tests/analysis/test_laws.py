import numpy as np
import pytest

from analysis.laws import LAWS, Chinchilla, DataConstrained, PowerLaw, TaskAccuracy, TaskError, make_law

INPUTS = {
    "params": np.array([3e7, 1e9, 5e9, 2e9, 7e10]),
    "tokens": np.array([2e9, 4e10, 4e10, 9e11, 1e11]),
    "unique_tokens": np.array([2e9, 1e10, 4e10, 3e10, 1e9]),
    "loss": np.array([3.6, 2.9, 2.6, 2.3, 2.1]),
}
BASE = {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 1500.0, "beta": 0.36}
CASES = [
    (Chinchilla(), BASE),
    (Chinchilla(tied=True), {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 1500.0}),
    (DataConstrained(), {**BASE, "R_D": 15.4, "R_N": 5.3}),
    (DataConstrained(excess_params=False), {**BASE, "R_D": 15.4}),
    (PowerLaw(), {"E": 1.8, "K": 50.0, "gamma": 0.2}),
    (PowerLaw(x="params", offset=False), {"K": 20.0, "gamma": 0.1}),
    (TaskError(), {"eps": 0.8, "k": 2.0, "gamma": 0.9}),
    (TaskAccuracy(chance=0.25), {"top": 0.8, "k": 3.0, "L0": 2.7}),
]
IDS = [f"{law.name}-{'-'.join(map(str, law.settings().values()))}" for law, _ in CASES]


@pytest.mark.parametrize(("law", "params"), CASES, ids=IDS)
def test_gradient_is_the_derivative(law, params):
    theta = law.to_theta(params)
    _, gradient = law.log_predict(theta[None], INPUTS)
    assert gradient.shape == (1, len(theta), 5)
    for index in range(len(theta)):
        step = 1e-6 * max(1.0, abs(theta[index]))
        ends = np.repeat(theta[None], 2, axis=0)
        ends[:, index] += [-step, step]
        low, high = law.log_predict(ends, INPUTS)[0]
        np.testing.assert_allclose(gradient[0, index], (high - low) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("law", "params"), CASES, ids=IDS)
def test_many_coordinates_at_once_are_each_alone(law, params):
    theta = law.starts(INPUTS, law.predict(params, INPUTS), 7, np.random.default_rng(0))
    assert theta.shape == (7, len(law.parameters))
    together, gradients = law.log_predict(theta, INPUTS)
    for row in range(7):
        alone, gradient = law.log_predict(theta[row : row + 1], INPUTS)
        np.testing.assert_array_equal(together[row], alone[0])
        np.testing.assert_array_equal(gradients[row], gradient[0])


@pytest.mark.parametrize(("law", "params"), CASES, ids=IDS)
def test_numbers_survive_coordinates_and_settings(law, params):
    assert law.to_params(law.to_theta(params)) == pytest.approx(params, rel=1e-14)
    assert make_law(law.name, law.settings()) == law
    lower, upper = law.bounds
    assert ((lower < law.to_theta(params)) & (law.to_theta(params) < upper)).all()
    assert all(parameter.unit for parameter in law.parameters)
    assert set(law.needs) <= set(law.inputs)


def test_chinchilla_is_its_equation():
    expected = 1.8 + 400 / INPUTS["params"] ** 0.34 + 1500 / INPUTS["tokens"] ** 0.36
    np.testing.assert_allclose(Chinchilla().predict(BASE, INPUTS), expected, rtol=1e-12)
    tied = 1.8 + 400 / INPUTS["params"] ** 0.34 + 1500 / INPUTS["tokens"] ** 0.34
    np.testing.assert_allclose(Chinchilla(tied=True).predict(BASE, INPUTS), tied, rtol=1e-12)


def test_optimum_beats_its_neighbours_under_any_count_of_flops():
    for flops in ({"k": 6.0, "n": 1.0, "d": 1.0}, {"k": 9.0, "n": 0.9, "d": 1.05}):
        size, tokens = Chinchilla().optimal(BASE, np.array([1e21]), flops)
        assert flops["k"] * size ** flops["n"] * tokens ** flops["d"] == pytest.approx(1e21)
        sizes = size * np.array([0.95, 1.0, 1.05])
        spent = (1e21 / flops["k"] / sizes ** flops["n"]) ** (1 / flops["d"])
        loss = Chinchilla().predict(BASE, {"params": sizes, "tokens": spent})
        assert loss[1] < loss[0]
        assert loss[1] < loss[2]


def test_laws_without_an_optimum_say_so():
    with pytest.raises(ValueError, match="'power_law' has no compute-optimal allocation"):
        PowerLaw().optimal({}, np.array([1e20]), {})
    with pytest.raises(ValueError, match="both must be above 0 for an optimum to exist"):
        Chinchilla().optimal({**BASE, "beta": 0.0}, np.array([1e20]), {"k": 6.0, "n": 1.0, "d": 1.0})


def test_data_constrained_is_its_equations_by_hand():
    params = {**BASE, "R_D": 15.4, "R_N": 5.3}
    n, d, u = 7e10, 1e11, 1e9
    u_n = (0.34 * 400 / (0.36 * 1500) * u**0.36) ** (1 / 0.34)
    assert u_n < n
    size = u_n + u_n * 5.3 * (1 - np.exp(-(n / u_n - 1) / 5.3))
    data = u + u * 15.4 * (1 - np.exp(-(d / u - 1) / 15.4))
    inputs = {"params": np.array([n]), "tokens": np.array([d]), "unique_tokens": np.array([u])}
    expected = 1.8 + 400 / size**0.34 + 1500 / data**0.36
    assert DataConstrained().predict(params, inputs)[0] == pytest.approx(expected, rel=1e-12)


def test_fresh_data_and_few_parameters_give_chinchillas_loss():
    inputs = {"params": np.array([1e7]), "tokens": np.array([1e11]), "unique_tokens": np.array([2e11])}
    base = Chinchilla().predict(BASE, inputs)
    params = {**BASE, "R_D": 15.4, "R_N": 5.3}
    np.testing.assert_allclose(DataConstrained().predict(params, inputs), base, rtol=1e-12)
    np.testing.assert_allclose(DataConstrained(excess_params=False).predict(params, INPUTS | inputs), base, rtol=1e-12)


def test_repetition_is_worth_less_and_less():
    tokens = 1e10 * np.array([1.0, 2.0, 4.0, 16.0, 1000.0])
    inputs = {"params": np.full(5, 1e8), "tokens": tokens, "unique_tokens": np.full(5, 1e10)}
    loss = DataConstrained(excess_params=False).predict({**BASE, "R_D": 15.4}, inputs)
    assert (np.diff(loss) < 0).all()
    fresh = Chinchilla().predict(BASE, inputs)
    assert (loss[1:] > fresh[1:]).all()
    worth = 1e10 * (1 + 15.4)
    limit = Chinchilla().predict(BASE, {"params": np.array([1e8]), "tokens": np.array([worth])})
    assert loss[-1] == pytest.approx(limit[0], rel=1e-9)


def test_task_laws_are_their_equations():
    loss = INPUTS["loss"]
    error = TaskError().predict({"eps": 0.8, "k": 2.0, "gamma": 0.9}, INPUTS)
    np.testing.assert_allclose(error, 0.8 - 2 * np.exp(-0.9 * loss), rtol=1e-12)
    accuracy = TaskAccuracy(0.25).predict({"top": 0.8, "k": 3.0, "L0": 2.7}, INPUTS)
    np.testing.assert_allclose(accuracy, 0.25 + 0.55 / (1 + np.exp(3 * (loss - 2.7))), rtol=1e-12)
    none = TaskError().predict({"eps": 0.8, "k": 2.0, "gamma": 0.9}, {"loss": np.array([0.5])})
    assert np.isnan(none[0])
    far = TaskAccuracy(0.0).predict({"top": 0.9, "k": 500.0, "L0": 2.0}, {"loss": np.array([9.0])})
    assert np.isnan(far[0])
    with pytest.raises(ValueError, match=r"chance is 1\.0"):
        TaskAccuracy(chance=1.0)


@pytest.mark.parametrize("law", LAWS.values())
def test_each_law_documents_equation_and_source(law):
    assert "=" in law.__doc__.splitlines()[0]
    assert "References" in law.__doc__
    assert law().equation


def test_unknown_law_is_refused():
    with pytest.raises(ValueError, match="no law 'kaplan'; there are: chinchilla"):
        make_law("kaplan")
    assert all(law.name == name for name, law in LAWS.items())
