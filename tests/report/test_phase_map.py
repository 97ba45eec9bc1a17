"""The page of the phase diagram: numbers of the library, no other file, and what it does in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from typing import Any

import numpy as np
import page_reader
import pytest
from PIL import Image

from featlearn.dynamics.parametrisations import NAMED_PARAMETRISATIONS, Parametrisation
from featlearn.dynamics.phase_diagram import phase_diagram
from featlearn.exceptions import DataError
from featlearn.plots.palette import diverging
from featlearn.report.phase_map import write_phase_map

WIDTHS = (10, 100, 1000, 10_000, 100_000)
MINE = {"g": -0.75, "eta_u": 0.25, "eta_w": 0.5}


def written(tmp_path, diagram, **options) -> str:
    diagram.to_html(tmp_path / "map.html", **options)
    return (tmp_path / "map.html").read_text(encoding="utf-8")


def embedded_in(text: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="phase-data">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a diagram with a point of one's own, at a width that is not on the list."""
    return written(tmp_path_factory.mktemp("page"), phase_diagram(width=300, target=-2.0, mine=MINE))


def test_the_page_is_one_small_file_that_asks_for_no_other(page) -> None:
    read = page_reader.Page(page)
    assert read.problems == []
    assert len(page.encode()) < 300_000
    assert [word for word in ("http", "src=", "<link", "@import") if word in page.lower()] == []
    assert all(entry["href"].startswith("data:image/png") for _, entry in read.elements if "href" in entry)


@pytest.mark.parametrize("width", [*WIDTHS, 300])
def test_embedded_points_are_those_of_the_library(page, width: int) -> None:
    told = phase_diagram(width=width, target=-2.0, mine=MINE, resolution=41).to_dict()
    here = embedded_in(page)["exponents"]["widths"][str(width)]
    assert len(here["points"]) == len(NAMED_PARAMETRISATIONS) + 1
    for shown, point in zip(here["points"], told["points"], strict=True):
        rest = {name: value for name, value in point.items() if name != "trajectory"}
        assert {name: shown[name] for name in rest} == rest
        assert set(shown["trajectory"]) == set(point["trajectory"])
        for name, values in point["trajectory"].items():
            assert len(values) == 60
            np.testing.assert_allclose(shown["trajectory"][name], values, rtol=5.1e-6)


def test_the_embedded_grid_is_that_of_the_library(page) -> None:
    data = embedded_in(page)["exponents"]
    diagram = phase_diagram(width=100, target=-2.0, mine=MINE, resolution=41)
    for name, axis in diagram.axes.items():
        np.testing.assert_allclose(data["axes"][name], axis, atol=5.1e-5)
    np.testing.assert_allclose(data["widths"]["100"]["log10_rho"], np.log10(diagram.rho), atol=0.00501)
    np.testing.assert_allclose(data["widths"]["100"]["Theta0"], 2 * 100 ** diagram.axes["eT"], rtol=5.1e-3)
    for name in ("phase", "speed"):
        words = [[data[name]["words"][int(code)] for code in row] for row in data[name]["rows"]]
        assert words == getattr(diagram, name).tolist()


def test_the_second_plane_is_that_of_the_library(page) -> None:
    data, diagram = embedded_in(page)["initialisation"], phase_diagram("initialisation", resolution=41)
    np.testing.assert_allclose(data["slope"], diagram.slope, atol=0.00501)
    words = [[data["phase"]["words"][int(code)] for code in row] for row in data["phase"]["rows"]]
    assert words == diagram.phase.tolist()
    assert data["points"] == diagram.to_dict()["points"]


def test_colours_are_those_of_the_figures(page) -> None:
    rho = phase_diagram(width=300, target=-2.0, mine=MINE, resolution=41).rho
    pictures = [entry["href"] for tag, entry in page_reader.Page(page).elements if tag == "image"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))))
    np.testing.assert_array_equal(picture, diverging(np.log10(rho) / 3.0)[::-1])
    assert pictures[0] == embedded_in(page)["exponents"]["widths"]["300"]["colors"]


def test_without_javascript_all_points_are_in_tables(page) -> None:
    read = page_reader.Page(page)
    told = [phase_diagram(width=width, target=-2.0, mine=MINE).to_dict()["points"] for width in (*WIDTHS, 300)]
    told += [phase_diagram("initialisation").to_dict()["points"]]
    known = {*page_reader.numbers_in(told), -2.0, -1.5, 1.5, 0.0, 300.0}
    shown = [(value, text) for value, text in read.data if text]
    assert len(shown) > 7 * (10 + 12)
    for value, text in shown:
        assert float(value) in known, (value, text)
        assert page_reader.rounds_to(value, text), (value, text)
    rows = [attributes["data-name"] for tag, attributes in read.elements if tag == "tr" and "data-name" in attributes]
    assert rows[:7] == [*NAMED_PARAMETRISATIONS, "mine"]


def test_the_way_that_is_drawn_is_the_trajectory(page) -> None:
    point = phase_diagram(width=300, target=-2.0, mine=MINE).points[-1]
    panel = next(p for p in embedded_in(page)["exponents"]["widths"]["300"]["points"] if p["name"] == "mine")["panel"]
    drawn = np.array(re.findall(r"[ML]([\d.-]+) ([\d.-]+)", re.search(r'class="taken" d="([^"]+)"', page)[1]), float)
    F = panel["F"][0] + drawn[:, 0] / 100 * (panel["F"][1] - panel["F"][0])
    Theta = (1 - drawn[:, 1] / 100) * panel["Theta"][1]
    np.testing.assert_allclose(F, point["trajectory"]["F"], atol=0.0003 * 2)
    np.testing.assert_allclose(Theta, point["trajectory"]["Theta"], atol=0.0002 * panel["Theta"][1])
    assert panel["F"] == [-2.5, 2.5]


def test_a_label_cannot_leave_its_place(tmp_path) -> None:
    label = "</script><b>bold</b>"
    text = written(tmp_path, phase_diagram(mine=Parametrisation(g=-0.9, label=label)))
    assert page_reader.Page(text).problems == []
    assert "<b>bold" not in text
    points = embedded_in(text)["exponents"]["widths"]["1000"]["points"]
    assert points[-1]["label"] == label


def test_it_opens_on_its_own_plane_with_its_own_point(tmp_path) -> None:
    data = embedded_in(written(tmp_path, phase_diagram("initialisation", mine={"gamma": 2.5, "gamma_prime": 0.1})))
    assert data["shown"] == {"plane": "initialisation", "width": 1000, "name": "mean_field"}
    assert data["initialisation"]["points"][-1]["gamma"] == 2.5
    assert [point["name"] for point in data["exponents"]["widths"]["10"]["points"]] == list(NAMED_PARAMETRISATIONS)
    assert list(data["exponents"]["widths"]) == [str(width) for width in WIDTHS]


@pytest.mark.parametrize("scales", [{"g": 1.5, "eta_u": 2.0, "var_u": 2.0}, {"g": -5.0, "eta_u": 5.0}])
def test_a_point_far_out_still_makes_a_page_of_numbers(tmp_path, scales) -> None:
    text = written(tmp_path, phase_diagram(mine=scales))
    assert len(text.encode()) < 300_000
    grid = np.array(embedded_in(text)["exponents"]["widths"]["100000"]["log10_rho"], dtype=float)
    assert np.isfinite(grid).all()


def test_a_point_whose_kernels_overflow_is_refused() -> None:
    with pytest.raises(DataError, match="kernels reach 1e80 at width 100000, but expected at most 1e45"):
        phase_diagram(mine={"g": 5.0, "eta_u": 5.0, "var_u": 5.0})


def test_what_is_not_two_planes_is_refused_before_anything_is_written(tmp_path) -> None:
    planes = phase_diagram()._planes()
    with pytest.raises(DataError, match="without initialisation"):
        write_phase_map({k: v for k, v in planes.items() if k != "initialisation"}, tmp_path / "map.html")
    with pytest.raises(DataError, match="width 7 to be shown"):
        write_phase_map({**planes, "shown": {"plane": "exponents", "width": 7}}, tmp_path / "map.html")
    other = phase_diagram(width=7, resolution=5).to_dict()
    with pytest.raises(DataError, match="different axes"):
        write_phase_map({**planes, "exponents": [*planes["exponents"], other]}, tmp_path / "map.html")
    assert list(tmp_path.iterdir()) == []


# --- in a browser -----------------------------------------------------------------------------------------------------

# Every step records what a reader sees; the test below says what it should be.
STEPS = """
const seen = {}, see = (name, value) => { seen[name] = value; };
const dot = (name) => document.querySelector(`#exponents .dot[data-names~="${name}"]`);
const names = () => [...document.querySelectorAll(".readout tbody tr")].map((row) => row.dataset.name);
const way = () => document.querySelector(".taken").getAttribute("d");
const caption = () => document.querySelector(".chosen").textContent;
const key = (element, name) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const here = (id) => document.querySelector(`#${id} .here output`).textContent;
see("needs", [...document.querySelectorAll(".needs-script, .widths, .tabs")].every((part) => !part.hidden));
see("cells", [...document.querySelectorAll("#all-points table:first-of-type td")].map((cell) => cell.textContent));
see("first", { names: names(), way: way(), caption: caption() });
dot("ntk").focus();
see("focused", { names: names(), way: way() });
dot("ntk").blur();
see("blurred", names());
dot("mean_field").dispatchEvent(new PointerEvent("pointerenter"));
see("hovered", names());
dot("kaiming").dispatchEvent(new MouseEvent("click", { bubbles: true }));
see("clicked", { way: way(), caption: caption(), on: document.querySelectorAll("#exponents .dot.on").length });
key(dot("mean_field"), "Enter");
see("entered", { way: way(), caption: caption() });
key(dot("mean_field"), " ");
const select = document.querySelector(".widths select");
select.value = "10";
select.dispatchEvent(new Event("change"));
const rho = (name) => document.querySelector(`#all-points tr[data-name="${name}"] td:last-child`);
see("narrow", { way: way(), rho: rho("ntk").textContent, value: rho("ntk").querySelector("data").value,
  heading: document.querySelector(".width-now").textContent,
  colors: document.querySelector(".colors").getAttribute("href") });
const frame = document.querySelector("#exponents .map > .frame"), box = frame.getBoundingClientRect();
const at = { clientX: box.left + box.width * 30 / 40, clientY: box.bottom - box.height * 10 / 40 };
frame.dispatchEvent(new PointerEvent("pointermove", at));
see("pointed", here("exponents"));
see("hovering", { way: way(), caption: caption() });
frame.dispatchEvent(new PointerEvent("pointerdown", at));
see("put", { way: way(), caption: caption(), on: document.querySelectorAll("#exponents .dot.on").length,
  cx: document.querySelector(".placed").getAttribute("cx") });
key(frame, "ArrowUp");
see("above", here("exponents"));
see("moved", { way: way(), caption: caption() });
const drag = { clientX: box.left + box.width * 20 / 40, clientY: box.bottom - box.height * 35 / 40, buttons: 1 };
frame.dispatchEvent(new PointerEvent("pointermove", drag));
see("dragged", { way: way(), caption: caption() });
dot("ntk").dispatchEvent(new PointerEvent("pointerdown", { ...drag, bubbles: true }));
dot("ntk").dispatchEvent(new MouseEvent("click", { bubbles: true }));
see("back", { way: way(), caption: caption(), cx: document.querySelector(".placed").getAttribute("cx") });
see("tabs", ["exponents", "initialisation"].map((id) => document.getElementById(id).hidden));
key(document.getElementById("tab-exponents"), "ArrowRight");
see("switched", ["exponents", "initialisation"].map((id) => document.getElementById(id).hidden));
document.querySelector('#initialisation .dot[data-names~="xavier"]').focus();
see("marked", [...document.querySelectorAll("#initialisation tr.on")].map((row) => row.dataset.name));
key(document.querySelector("#initialisation .map > .frame"), "ArrowLeft");
see("left", here("initialisation"));
see("wide", document.documentElement.scrollWidth <= innerWidth);
const result = document.createElement("pre");
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
"""


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the steps record in a real browser."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    if browser is None:
        pytest.skip("no browser of the Chromium family is installed")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "map.html").write_text(page.replace("</body>", f"<script>{STEPS}</script></body>"), encoding="utf-8")
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--window-size=700,900",
    )
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [browser, *options, profile, "--dump-dom", (folder / "map.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = [text for tag, attributes, text in page_reader.Page(done.stdout).texts if attributes.get("id") == "seen"]
    assert found, "the script of the page, or of the test, has failed"
    return json.loads(found[0])


def numbers_of(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", path)]


def way_of(page: str, name: str, width: int) -> list[float]:
    """Where the trajectory lies in the frame of its panel, in percent."""
    points = embedded_in(page)["exponents"]["widths"][str(width)]["points"]
    point = next(point for point in points if point["name"] == name)
    (low, high), (_, top) = point["panel"]["F"], point["panel"]["Theta"]
    told = next(p for p in phase_diagram(width=width, target=-2.0, mine=MINE).points if p["name"] == name)["trajectory"]
    places = [
        (100 * (F - low) / (high - low), 100 - 100 * T / top) for F, T in zip(told["F"], told["Theta"], strict=True)
    ]
    return [number for place in places for number in place]


def test_the_script_draws_what_python_drew(page, seen) -> None:
    assert seen["needs"]
    assert seen["first"]["names"] == ["mine"]
    assert seen["first"]["caption"] == "mine"
    static = re.search(r'class="taken" d="([^"]+)"', page)[1]
    assert numbers_of(seen["first"]["way"]) == pytest.approx(numbers_of(static), abs=0.011)


def test_the_script_writes_numbers_as_python_wrote_them(page, seen) -> None:
    static = [text for tag, _, text in page_reader.Page(page).texts if tag == "td"]
    assert seen["cells"] == static[: len(seen["cells"])]
    assert len(seen["cells"]) > 7 * 12


def test_focus_and_pointer_show_numbers_and_leave_the_way(seen) -> None:
    assert seen["focused"] == {"names": ["ntk"], "way": seen["first"]["way"]}
    assert seen["blurred"] == ["mine"]
    assert seen["hovered"] == ["mean_field", "mup", "xavier"]


def test_a_click_or_the_enter_key_shows_the_way_of_the_point(page, seen) -> None:
    assert (seen["clicked"]["caption"], seen["clicked"]["on"]) == ("kaiming / lecun, rate 1", 1)
    assert numbers_of(seen["clicked"]["way"]) == pytest.approx(way_of(page, "kaiming", 300), abs=0.011)
    assert seen["entered"]["caption"] == "mean field"
    assert numbers_of(seen["entered"]["way"]) == pytest.approx(way_of(page, "mean_field", 300), abs=0.011)
    assert seen["clicked"]["way"] != seen["entered"]["way"]


def test_the_selector_changes_numbers_colours_and_way_to_another_width(page, seen) -> None:
    told = phase_diagram(width=10, target=-2.0, mine=MINE)
    ntk = next(point for point in told.points if point["name"] == "ntk")
    assert float(seen["narrow"]["value"]) == ntk["rho"]
    assert page_reader.rounds_to(seen["narrow"]["value"], seen["narrow"]["rho"])
    assert seen["narrow"]["heading"] == "10"
    assert seen["narrow"]["colors"] == embedded_in(page)["exponents"]["widths"]["10"]["colors"]
    assert numbers_of(seen["narrow"]["way"]) == pytest.approx(way_of(page, "mean_field", 10), abs=0.011)


def test_a_reader_moves_a_parametrisation_and_sees_its_way(page, seen) -> None:
    """By click, arrow key and drag; the way is the exact one at the growth of the kernel there."""
    diagram = phase_diagram(width=10, target=-2.0, mine=MINE, resolution=41)
    assert seen["hovering"] == {
        key: seen["narrow"]["way"] if key == "way" else "mean field" for key in ("way", "caption")
    }
    for step, i, j in (("put", 30, 10), ("moved", 30, 11), ("dragged", 20, 35)):
        eT, eF = diagram.axes["eT"][i], diagram.axes["eF"][j]
        told = [float(x.replace("−", "-")) for x in re.findall(r"e[TF] (−?[\d.]+)", seen[step]["caption"])]
        assert told == pytest.approx([eT, eF], abs=0.006)
        growth = 1 + diagram.rho[j, i]
        ends = np.reshape(numbers_of(seen[step]["way"]), (-1, 2))[[0, -1]]
        # The frame ends at 1.12 times the kernel at 1.25 times the target; ways are drawn at steps of .15 in log10 rho.
        drawn = np.subtract(100, ends[:, 1])
        nearest = 1 + 10 ** (-3 + 0.15 * np.clip(round((np.log10(growth - 1) + 3) / 0.15), 0, 40))
        top = 1.12 * np.sqrt(1 + 1.25**2 * (nearest**2 - 1))
        assert drawn == pytest.approx([100 / top, 100 * nearest / top], abs=0.05)
    assert (seen["put"]["on"], seen["put"]["cx"]) == (0, "75%")
    assert seen["dragged"]["way"] != seen["moved"]["way"]
    assert (seen["back"]["caption"], seen["back"]["cx"]) == ("ntk", "-100%")


def test_the_plane_answers_to_the_pointer_and_to_arrow_keys(seen) -> None:
    diagram = phase_diagram(width=10, target=-2.0, mine=MINE, resolution=41)
    for text, j in ((seen["pointed"], 10), (seen["above"], 11)):
        numbers = [float(x.replace("−", "-")) for x in re.findall(r"(?:eT|eF|ρ|Θ₀) (−?\d+(?:\.\d+)?)", text)]
        eT, eF = diagram.axes["eT"][30], diagram.axes["eF"][j]
        expected = [eT, eF, np.log10(diagram.rho[j, 30]), 2 * 10**eT]
        assert numbers == pytest.approx(expected, rel=0.006, abs=0.006)
        assert f"{diagram.phase[j, 30]} phase, {diagram.speed[j, 30]};" in text


def test_tabs_show_one_plane_at_a_time(seen) -> None:
    assert seen["tabs"] == [False, True]
    assert seen["switched"] == [True, False]
    assert seen["marked"] == ["xavier", "mean_field"]
    assert seen["left"] == "γ 0.95, γ′ 0: linear, slope −0.05."


def test_a_narrow_window_needs_no_sideways_scrolling(seen) -> None:
    assert seen["wide"]
