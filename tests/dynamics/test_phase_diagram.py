from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featlearn.dynamics.hyperbola import Hyperbola
from featlearn.dynamics.linear_net_1d import LinearNet1D
from featlearn.dynamics.parametrisations import NAMED_PARAMETRISATIONS, Parametrisation, scaling_exponents
from featlearn.dynamics.phase_diagram import phase_diagram
from featlearn.exceptions import DataError

TABLE = {  # eT, eF, e0, phase, speed
    "ntk": (0, -1, 0, "kernel", "O(1)"),
    "mean_field": (0, 0, -1, "feature", "O(1)"),
    "mup": (0, 0, -1, "feature", "O(1)"),
    "xavier": (0, 0, -1, "feature", "O(1)"),
    "kaiming": (1, 0, 0, "kernel", "unstable"),
    "kaiming_slow": (0, -2, 0, "kernel", "O(1)"),
}

exponent = st.floats(-3, 3)


@pytest.mark.parametrize("name", TABLE)
def test_exponents_of_the_named_parametrisations(name: str) -> None:
    found = scaling_exponents(**NAMED_PARAMETRISATIONS[name].exponents())
    assert (found.eT, found.eF, found.e0, str(found.phase), str(found.speed)) == TABLE[name]


@given(exponent, exponent, exponent, exponent, exponent)
def test_feature_learning_needs_a_vanishing_initial_output(
    g: float, eta_u: float, eta_w: float, var_u: float, var_w: float
) -> None:
    found = scaling_exponents(g=g, eta_u=eta_u, eta_w=eta_w, var_u=var_u, var_w=var_w)
    assert 2 * found.eT >= found.eF + found.e0 + 1 - 1e-9
    if found.phase == "feature":
        assert found.e0 <= -1 + 1e-6


def test_exponents_are_those_of_simulated_networks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        exponents = dict(zip(("g", "eta_u", "eta_w", "var_u", "var_w"), rng.uniform(-1, 1, 5), strict=True))
        expected = scaling_exponents(**exponents)
        widths = (3_000, 300_000)
        cores = [LinearNet1D.sample(width, exponents, random_state=0).hyperbola for width in widths]
        log_widths = np.log(widths[1] / widths[0])
        measured = [np.log(cores[1].Theta0 / cores[0].Theta0), 2 * np.log(cores[1].omega / cores[0].omega)]
        # The smaller of the two parts of the kernel fades slowly when their exponents are close.
        assert measured[0] / log_widths == pytest.approx(float(expected.eT), abs=0.06)
        assert measured[1] / log_widths == pytest.approx(float(expected.eF), abs=1e-9)


def test_exponents_on_a_line_up_to_rounding_lie_on_it() -> None:
    found = scaling_exponents(g=-0.1 - 0.2 - 0.7, eta_u=1.0, eta_w=1.0, var_u=0.0, var_w=0.0)
    assert (str(found.phase), str(found.speed)) == ("feature", "O(1)")


def test_exponents_broadcast_and_make_a_table() -> None:
    found = scaling_exponents(g=[[0.0], [-0.5]], eta_u=[0.0, 1.0, 2.0], eta_w=0.0, var_u=0.0, var_w=0.0)
    assert found.eT.shape == found.phase.shape == (2, 3)
    assert len(found.frame()) == 6
    assert json.loads(json.dumps(found.to_dict()))["eF"][1] == [-1.0, 0.0, 1.0]
    with pytest.raises(DataError, match=r"eta_u of shape \(3,\)"):
        scaling_exponents(g=[0.0, 0.0], eta_u=[0.0, 1.0, 2.0], eta_w=0.0, var_u=0.0, var_w=0.0)


def test_rho_on_the_grid_is_the_growth_of_a_hyperbola_there() -> None:
    diagram = phase_diagram(width=50, target=-2.0, resolution=9)
    for i, j in ((0, 0), (2, 7), (8, 3), (4, 4)):
        eT, eF = diagram.axes["eT"][j], diagram.axes["eF"][i]
        model = Hyperbola(0.0, 2 * 50**eT, 2 * 50 ** (eF / 2), -2.0)
        assert diagram.rho[i, j] == pytest.approx(float(model.rho), rel=1e-12)
        assert diagram.phase[i, j] == ("feature" if eF >= 2 * eT else "kernel")
        M = max(eT, eF / 2)
        assert diagram.speed[i, j] == ("unstable" if M > 0 else "frozen" if M < 0 else "O(1)")


@pytest.mark.parametrize("name", TABLE)
def test_points_have_the_numbers_of_wide_random_networks(name: str) -> None:
    point = {point["name"]: point for point in phase_diagram(width=20_000).points}[name]
    core = LinearNet1D.sample(20_000, name, random_state=0, draws=8).hyperbola
    assert point["Theta0"] == pytest.approx(core.Theta0.mean(), rel=0.02)
    # The initial output, left out of rho, is a random number of variance 1/d beside the kernel.
    assert point["rho"] == pytest.approx(core.rho.mean(), abs=0.02)
    assert point["trajectory"]["F"][-1] == pytest.approx(1.0, abs=1e-3)
    assert len(point["trajectory"]["t"]) == 60


def test_the_axes_reach_out_to_the_users_own_point() -> None:
    mine = Parametrisation(g=1.0, eta_u=2.0, label="a loud one")
    diagram = phase_diagram(mine=mine, resolution=11)
    point = diagram.points[-1]
    assert (point["name"], point["label"], point["eT"], point["eF"]) == ("mine", "a loud one", 5.0, 4.0)
    assert diagram.axes["eT"][-1] > 5.0
    assert diagram.axes["eF"][-1] > 4.0
    assert diagram.frame().loc["mine", "eta_u"] == 2.0


def test_it_is_plain_finite_json() -> None:
    numbers = json.loads(json.dumps(phase_diagram(resolution=5).to_dict(), allow_nan=False))
    assert numbers["settings"] == {"width": 1000, "target": 1.0}
    assert np.shape(numbers["grids"]["rho"]) == (5, 5)
    assert [point["name"] for point in numbers["points"]] == list(NAMED_PARAMETRISATIONS)
    assert "mean_field" in phase_diagram(resolution=5)._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"plane": "rates"}, "'rates'"),
        ({"width": 0}, "width=0"),
        ({"resolution": 1}, "resolution=1"),
        ({"target": 0.0}, "target=0"),
        ({"target": np.nan}, "target with values that are not finite"),
        ({"target": "one"}, "target of type str"),
        ({"target": [1.0, 2.0]}, r"target=\[1.0, 2.0\]"),
        ({"plane": "initialisation", "mine": {"gamma": "a", "gamma_prime": 0.0}}, "gamma of type str"),
        ({"mine": {"rate": 1.0}}, "'rate'"),
        ({"mine": {"g": np.inf}}, "g"),
        ({"plane": "initialisation", "width": 10}, "leave it out"),
        ({"plane": "initialisation", "target": 1.0}, "leave it out"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        phase_diagram(**arguments)


def test_a_grid_that_the_plane_has_not_is_named() -> None:
    with pytest.raises(AttributeError, match="'slope'; its grids are rho, phase, speed"):
        phase_diagram(resolution=3).slope  # noqa: B018


def test_the_plane_of_initial_scales_shows_regimes_and_their_slopes() -> None:
    diagram = phase_diagram("initialisation", resolution=9, mine={"gamma": 1.5, "gamma_prime": -0.25})
    places = {point["name"]: (point["gamma"], point["gamma_prime"]) for point in diagram.points}
    assert places == {
        "ntk": (0.5, 0.0),
        "kaiming": (0.5, 0.5),
        "xavier": (1.0, 0.0),
        "mean_field": (1.0, 0.0),
        "mine": (1.5, -0.25),
    }
    frame = diagram.frame()
    assert frame["phase"].to_dict() == {
        "ntk": "linear",
        "kaiming": "linear",
        "xavier": "critical",
        "mean_field": "critical",
        "mine": "condensed",
    }
    assert frame["slope"].to_dict() == pytest.approx(
        {"ntk": -0.5, "kaiming": -1.5, "xavier": 0.0, "mean_field": 0.0, "mine": 0.375}
    )
    # gamma runs along the columns, gamma' along the rows.
    assert (diagram.axes["gamma"][2], diagram.axes["gamma_prime"][6]) == (0.5, 0.5)
    assert (diagram.slope[6, 2], diagram.phase[6, 2]) == (-1.5, "linear")
    assert json.loads(json.dumps(diagram.to_dict(), allow_nan=False))["settings"] == {}


@pytest.mark.parametrize("mine", [{"g": 1.0}, {"gamma": 1.0}, {"gamma": np.nan, "gamma_prime": 0.0}, Parametrisation()])
def test_points_of_the_other_plane_are_refused(mine: Any) -> None:
    with pytest.raises(DataError, match="gamma"):
        phase_diagram("initialisation", mine=mine)
