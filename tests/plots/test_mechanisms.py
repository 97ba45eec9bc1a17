from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from featlearn.dynamics.mechanism_results import LayerMechanisms, PairMechanisms
from featlearn.exceptions import DataError


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def pair(name="a", cosine=(0.1, 0.2, 0.5), largest=(0.8, 0.8, 0.9), norm=(2.0, 3.0, 40.0)):
    arrays = {"cosine": np.array(cosine), "largest": np.array(largest), "norm": np.array(norm)}
    return PairMechanisms(first=name, second="z", width=16, chance=1 / 16, **arrays)


def result(*pairs, steps=(0, 1, 100)):
    return LayerMechanisms(steps=steps, pairs=pairs)


def heights(ax):
    return [[bar.get_height() for bar in group] for group in ax.containers]


def test_three_panels_show_angle_growth_and_terms():
    a, b = pair(), pair("b", norm=(1.0, 1.0, 0.5))
    angle, growth, terms = result(a, b).plot()
    np.testing.assert_allclose(angle.lines[0].get_ydata(), a.cosine / a.largest)
    np.testing.assert_allclose(growth.lines[0].get_ydata(), a.norm / a.norm[0])
    assert growth.get_yscale() == "log"
    assert [label.get_text() for label in terms.get_xticklabels()] == ["a | z", "b | z"]
    shown = heights(terms)
    np.testing.assert_allclose(np.sum(shown, axis=0), [a.total, b.total])
    np.testing.assert_allclose([group[1] for group in shown], [b.rotation, b.concentration, b.rescaling])


def test_negative_terms_hang_below_zero():
    falling = pair(norm=(2.0, 2.0, 1.0))
    ax = plt.figure().subplots()
    assert result(falling).plot(ax) == [ax]
    rescaling = ax.containers[2][0]
    assert rescaling.get_height() < 0
    assert rescaling.get_y() == 0


def test_what_bars_cannot_show_is_said():
    nan = float("nan")
    cases = {
        "normalised": pair(norm=(nan, nan, nan)),
        "rotation infinite": pair(cosine=(0.0, 0.2, 0.5)),
        "no angle": pair(cosine=(nan, 0.2, 0.5)),
    }
    for words, shown in cases.items():
        ax = plt.figure().subplots()
        result(shown).plot(ax)
        assert any(words in text.get_text() for text in ax.texts)
    ax = plt.figure().subplots()
    result(pair(cosine=(0.1,), largest=(0.5,), norm=(1.0,)), steps=(0,)).plot(ax)
    assert any("one state" in text.get_text() for text in ax.texts)


def test_without_spectra_one_term_holds_both():
    nan = float("nan")
    shown = pair(largest=(nan, nan, nan))
    angle, _, terms = result(shown).plot()
    assert angle.get_ylabel() == "$c$"
    np.testing.assert_allclose(angle.lines[0].get_ydata(), shown.cosine)
    np.testing.assert_allclose(heights(terms)[0], np.log(5.0))


def test_bars_below_the_thresholds_are_marked_and_the_thresholds_named():
    little = result(pair(cosine=(0.1, 0.11), largest=(0.5, 0.5), norm=(1.0, 1.1)), steps=(0, 1)).plot()[-1]
    assert "kernel-\nlike" in [text.get_text() for text in little.texts]
    assert little.get_legend().get_title().get_text() == "kernel-like: score below 0.69, rescaling below 0.22"
    much = result(pair()).plot()[-1]
    assert not any("kernel" in text.get_text() for text in (*much.texts, much.get_legend().get_title()))


def test_another_number_of_axes_is_refused():
    with pytest.raises(DataError, match="one or three"):
        result(pair()).plot(plt.figure().subplots(1, 2))
