"""Phase diagrams and trajectories show the numbers of their results."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from featlearn.dynamics.hyperbola import Hyperbola
from featlearn.dynamics.linear_net_1d import LinearNet1D
from featlearn.dynamics.phase_diagram import phase_diagram
from featlearn.exceptions import DataError
from featlearn.plots.dynamics import plot_hyperbola, plot_mechanism_plane
from featlearn.plots.phase_diagram import plot_phase_diagram


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def ends(ax: Axes, marker: str) -> list[tuple[float, float]]:
    return [tuple(map(float, line.get_xydata()[0])) for line in ax.lines if line.get_marker() == marker]


def test_parametrisations_at_one_place_share_one_dot_and_one_label() -> None:
    diagram = phase_diagram(resolution=21, mine={"g": -0.75})
    ax = diagram.plot()
    assert sorted(ends(ax, "o")) == [(0.0, -2.0), (0.0, -1.0), (0.0, 0.0), (1.0, 0.0)]
    assert ends(ax, "D") == [(-0.5, -1.5)]
    texts = [text.get_text() for text in ax.texts]
    assert "mean field\nmup\nxavier" in texts
    assert "mine" in texts


def test_the_map_is_rho_in_decades_and_its_line_divides_the_phases() -> None:
    diagram = phase_diagram(resolution=21, width=100, target=2.0)
    ax = diagram.plot()
    drawn = np.asarray(ax.collections[0].get_array()).reshape(21, 21)
    np.testing.assert_allclose(drawn, np.log10(diagram.rho))
    line = ax.lines[0]
    np.testing.assert_allclose(line.get_ydata(), 2 * np.asarray(line.get_xdata()))
    assert ax.get_title() == "width 100, target 2"
    assert ax.get_xlim() == (-1.5, 1.5)


def test_it_is_drawn_into_the_axes_given_and_other_planes_are_refused() -> None:
    _, given = plt.subplots()
    diagram = phase_diagram(resolution=5)
    assert diagram.plot(given) is given
    with pytest.raises(DataError, match="'rates'"):
        plot_phase_diagram(diagram.to_dict() | {"plane": "rates"})


def test_several_models_start_at_dots_and_end_at_stars_of_one_plane() -> None:
    models = [Hyperbola(0.1, 1.0, 2.0, 1.0), Hyperbola([-0.2, 0.3], 0.8, 2.0, [0.5, -0.5])]
    ax = plot_hyperbola(models, labels=["one", "two", "three"])
    np.testing.assert_allclose(ends(ax, "o"), [(0.1, 1.0), (-0.2, 0.8), (0.3, 0.8)])
    np.testing.assert_allclose([x for x, _ in ends(ax, "*")], [1.0, 0.5, -0.5])
    np.testing.assert_allclose(ends(ax, "*")[0][1], models[0].Theta_inf)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two", "three"]


def test_normalized_models_move_on_one_curve() -> None:
    ax = plot_hyperbola([Hyperbola(0.1, 1.0, 2.0, 1.0).to_dict(), Hyperbola(0.0, 3.0, 0.5, -2.0)], normalize=True)
    for x, y in ends(ax, "o") + ends(ax, "*"):
        assert y == pytest.approx(np.hypot(1.0, x))


def test_models_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(DataError, match="no models"):
        plot_hyperbola([])
    with pytest.raises(DataError, match="2 labels"):
        plot_hyperbola([Hyperbola(0.0, 1.0, 1.0, 1.0)], labels=["a", "b"])
    with pytest.raises(DataError, match="kappa=0"):
        plot_hyperbola([Hyperbola(0.5, 1.0, 2.0, 1.0)], normalize=True)


def test_the_plane_of_mechanisms_shows_cosine_and_norms() -> None:
    net = LinearNet1D([0.3, -0.2], [0.1, 0.4])
    path = net.closed_form(np.linspace(0.0, 9.0, 30))
    ax = plot_mechanism_plane([path.to_dict()], labels=["a net"])
    np.testing.assert_allclose(ends(ax, "o"), [(abs(path.cos[0]), path.norm[0])])
    np.testing.assert_allclose(ends(ax, "*"), [(abs(path.cos[-1]), path.norm[-1])])
    with pytest.raises(DataError, match="no trajectories"):
        plot_mechanism_plane([])
    with pytest.raises(DataError, match="2 labels"):
        plot_mechanism_plane([path.to_dict()], labels=["a", "b"])


def test_the_plane_of_initial_scales_is_its_slopes_in_colour() -> None:
    diagram = phase_diagram("initialisation", resolution=9, mine={"gamma": 1.5, "gamma_prime": 0.25})
    ax = diagram.plot()
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).reshape(9, 9), diagram.slope)
    assert sorted(ends(ax, "o")) == [(0.5, 0.0), (0.5, 0.5), (1.0, 0.0)]
    assert ends(ax, "D") == [(1.5, 0.25)]
