"""The page of a tree: Python's numbers, no other file, and a walk in the browser that agrees with Python's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import feature_trees
import numpy as np
import page_reader
import pandas as pd
import pytest

from featlearn.exceptions import DataError
from featlearn.report.tree import write_tree_page
from featlearn.trees.export import rule_text


def written(tmp_path, told, **options) -> str:
    write_tree_page(told, tmp_path / "tree.html", **options)
    return (tmp_path / "tree.html").read_text(encoding="utf-8")


def embedded_in(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="tree-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def shape_of(kind: str) -> tuple[int, int] | None:
    return (2, 3) if kind == "pixels" else None


def told_of(kind: str) -> dict[str, Any]:
    return feature_trees.fitted(kind).export_dict()


def curve() -> dict[str, Any]:
    fitted = feature_trees.fitted("classes")
    X = pd.DataFrame(feature_trees.rows(60), columns=feature_trees.NAMES)
    y = fitted.predict(X)
    return fitted.path_frame(X, y, cart=(X, y)).to_dict()


SCORES = {
    "metric": "accuracy",
    "rows": 34,
    "table": [
        {"name": "feature tree", "value": 0.912, "standard_error": 0.049, "leaves": 3, "weights": 8},
        {"name": "constant", "value": 0.4, "standard_error": None, "leaves": 1, "weights": None},
    ],
}


@pytest.mark.parametrize("kind", feature_trees.KINDS)
def test_the_page_is_one_small_file_that_asks_for_no_other(tmp_path, kind: str) -> None:
    page = written(tmp_path, told_of(kind), image_shape=shape_of(kind), curve=curve(), scores=SCORES)
    read = page_reader.Page(page)
    assert read.problems == []
    assert len(page.encode()) < 200_000
    assert [word for word in ("http", "<link", "@import") if word in page.lower()] == []
    sources = [entry["src"] for _, entry in read.elements if "src" in entry]
    assert all(source.startswith("data:image/png") for source in sources)
    splits = [node for node in told_of(kind)["nodes"] if node["left"] is not None]
    assert len(sources) == (len(splits) if kind == "pixels" else 0)


@pytest.mark.parametrize("kind", ["classes", "many", "prototype"])
def test_without_a_script_every_rule_and_leaf_can_be_read(tmp_path, kind: str) -> None:
    told = told_of(kind)
    page = written(tmp_path, told, max_terms=2)
    read = page_reader.Page(page)
    words = next(text for tag, attributes, text in read.texts if attributes.get("class") == "words")
    for node in told["nodes"]:
        if node["left"] is not None:
            assert rule_text(node, "original", 4, None) in words
    cards = [attributes for tag, attributes in read.elements if attributes.get("class", "").startswith("card ")]
    assert sorted(int(card["data-node"]) for card in cards) == [node["id"] for node in told["nodes"]]
    assert all(card["tabindex"] == "0" and card["aria-label"] for card in cards)
    hidden = [attributes for _, attributes in read.elements if "needs-script" in attributes.get("class", "")]
    assert len(hidden) == 2
    assert all("hidden" in attributes for attributes in hidden)


def test_bars_are_the_standardised_weights_on_one_scale(tmp_path) -> None:
    told = told_of("classes")
    page = written(tmp_path, told)
    found = re.findall(r'<i class="(plus|minus)" style="left:([\d.]+)%;width:([\d.]+)%"></i></span></div>\n', page)
    order, stack = [], [0]
    while stack:
        node = told["nodes"][stack.pop()]
        if node["left"] is not None:
            order += node["standardized"]["weights"]
            stack += [node["left"], node["right"]]  # yes is drawn first
    largest = max(map(abs, order))
    assert len(found) >= len(order) > 4
    for (sign, left, width), weight in zip(found[: len(order)], order, strict=True):
        assert sign == ("plus" if weight > 0 else "minus")
        assert float(width) == pytest.approx(50 * abs(weight) / largest, abs=0.006)
        assert float(left) == pytest.approx(50 + min(0.0, 50 * weight / largest), abs=0.006)


def test_numbers_that_are_shown_are_those_that_were_told(tmp_path) -> None:
    told, sizes = told_of("classes"), curve()
    read = page_reader.Page(written(tmp_path, told, curve=sizes, scores=SCORES))
    nodes = told["nodes"]
    splits = [node for node in nodes if node["left"] is not None]
    largest = max(abs(w) for node in splits for w in node["standardized"]["weights"])
    known = {*page_reader.numbers_in([nodes, told["importances"], sizes, SCORES]), largest}
    known |= {float(len(splits)), len(nodes) - len(splits) + 0.0, float(len(told["features"]))}
    known |= {float(len({i for node in splits for i in node["inputs"]}))}
    assert len(read.data) > 40
    for value, text in read.data:
        assert float(value) in known, (value, text)
        share = text.endswith("%")
        assert page_reader.rounds_to(str(float(value) * (100 if share else 1)), text.rstrip("%")), (value, text)


def test_the_curve_has_its_points_where_the_numbers_are(tmp_path) -> None:
    sizes = curve()
    page = written(tmp_path, told_of("classes"), curve=sizes)
    star = re.search(r'class="star" x="([\d.]+)%" y="([\d.]+)%"', page)
    chosen = next(row for row in sizes["rows"] if row["chosen"])
    most = max(row["leaves"] for row in [*sizes["rows"], *sizes["cart"]])
    scores = [row["score"] for row in [*sizes["rows"], *sizes["cart"]]]
    spread = max(scores) - min(scores)
    assert float(star[1]) == pytest.approx(100 * np.log(chosen["leaves"]) / np.log(most), abs=0.01)
    height = (chosen["score"] - min(scores) + 0.06 * spread) / (1.12 * spread)
    assert float(star[2]) == pytest.approx(100 - 100 * height, abs=0.02)


def test_names_cannot_leave_their_place(tmp_path) -> None:
    fitted = feature_trees.fitted("classes")
    told = fitted.export_dict()
    strange = "</script><b>bold</b>"
    text = json.dumps(told, ensure_ascii=False).replace(feature_trees.NAMES[0], strange)
    page = written(tmp_path, json.loads(text), title="A & B")
    assert page_reader.Page(page).problems == []
    assert "<b>bold" not in page
    assert embedded_in(page)["features"][0] == strange


def test_the_method_and_json_give_the_same_page(tmp_path) -> None:
    fitted = feature_trees.fitted("classes")
    fitted.to_html(tmp_path / "method.html", max_terms=3)
    again = written(tmp_path, json.loads(json.dumps(fitted.export_dict())), max_terms=3)
    assert (tmp_path / "method.html").read_text(encoding="utf-8") == again


def test_what_cannot_be_shown_is_refused_before_anything_is_written(tmp_path) -> None:
    told = told_of("classes")
    for given, options, match in (
        ({"nodes": []}, {}, "export_dict"),
        (told, {"max_terms": 0}, "max_terms=0"),
        (told, {"max_terms": None}, "max_terms=None, but expected a whole number"),
        (told, {"image_shape": (3, 3)}, "9 pixels, but expected 4"),
        (told, {"examples": [("mine", [1.0, 2.0])]}, "2 values for the row 'mine', but expected 4"),
        (told, {"examples": [("mine", [1.0, 2.0, 3.0, np.nan])]}, "finite"),
    ):
        with pytest.raises(DataError, match=match):
            write_tree_page(given, tmp_path / "tree.html", **options)
    assert list(tmp_path.iterdir()) == []


# --- in a browser -----------------------------------------------------------------------------------------------------

# Every step records what a reader sees; the tests below say what it should be.
WALK = """
const seen = { walks: ROWS.map((one) => explain(one)) };
"""
STEPS = """
const see = (name, value) => { seen[name] = value; };
const key = (element, name) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const lit = () => all(".node.lit").map((node) => Number(node.dataset.node)).sort((a, b) => a - b);
const here = () => Number(document.activeElement.dataset.node);
const type = (element, value) => { element.value = value; element.dispatchEvent(new Event("input")); };
const said = () => ({ lit: lit(), prediction: find(".prediction").textContent,
  last: find(".steps tbody tr:last-child td:last-child").textContent, rows: find(".steps tbody").rows.length });
see("shown", all(".needs-script").every((part) => !part.hidden));
see("start", said());
see("fields", [...fields.keys()]);
see("filled", [...fields.values()].map(({ number }) => number.valueAsNumber));
card(0).focus();
see("told", told.textContent);
key(card(0), "ArrowRight");
see("right", here());
key(document.activeElement, "ArrowDown");
see("down", here());
see("leaf or rule", told.textContent);
key(document.activeElement, "ArrowLeft");
see("left", here());
key(card(0), "-");
see("folded", [document.getElementById("under-0").hidden, find(".fold").getAttribute("aria-expanded")]);
key(card(0), "ArrowRight");
see("unfolded", [document.getElementById("under-0").hidden, find(".fold").getAttribute("aria-expanded"), here()]);
find(".fold").click();
see("clicked", document.getElementById("under-0").hidden);
find('.all-folds[data-open="true"]').click();
see("all", all(".node > ul").some((list) => list.hidden));
for (const [i, value] of MOVED) type(fields.get(i).number, value);
see("moved", { ...said(), row: [...row] });
type(fields.get(MOVED[0][0]).number, "");
see("emptied", said());
const slider = fields.get(MOVED[0][0]).slider;
type(slider, slider.max);
see("slid", { ...said(), row: [...row], number: fields.get(MOVED[0][0]).number.valueAsNumber });
choice.value = "0";
choice.dispatchEvent(new Event("change"));
see("again", said());
see("wide", document.documentElement.scrollWidth <= innerWidth);
"""
FINISH = """
const result = document.createElement("pre");
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
"""


def in_browser(folder, page: str, script: str) -> dict[str, Any]:
    """What the script records in a real browser."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    if browser is None:
        pytest.skip("no browser of the Chromium family is installed")
    (folder / "tree.html").write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    place = (f"--user-data-dir={folder / 'profile'}", "--window-size=600,900", "--dump-dom")
    command = [browser, *options, *place, (folder / "tree.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = [text for tag, attributes, text in page_reader.Page(done.stdout).texts if attributes.get("id") == "seen"]
    assert found, "the script of the page, or of the test, has failed"
    return json.loads(found[0])


def some_rows(fitted: Any) -> np.ndarray:
    """Training rows and wilder ones."""
    random = np.random.default_rng(5)
    return random.normal(scale=1.5, size=(40, fitted.n_features_in_)).round(6)


def frame_of(fitted: Any, X: np.ndarray) -> Any:
    return pd.DataFrame(X, columns=fitted.feature_names_in_) if hasattr(fitted, "feature_names_in_") else X


@pytest.mark.parametrize("kind", [kind for kind in feature_trees.KINDS if kind != "leaf"])
def test_the_walk_in_the_page_is_that_of_python(tmp_path, kind: str) -> None:
    fitted = feature_trees.fitted(kind)
    X = some_rows(fitted)
    page = written(tmp_path, fitted.export_dict(), image_shape=shape_of(kind))
    seen = in_browser(tmp_path, page, f"const ROWS = {json.dumps(X.tolist())};{WALK}{FINISH}")
    given = frame_of(fitted, X)
    Z = fitted.map_.forward(fitted.inputs_.rows(X))
    reach = fitted.tree_.reach(Z, fitted.fuzzy_bandwidth_)
    classes = hasattr(fitted, "classes_")
    wanted = fitted.predict_proba(given) if classes else np.reshape(fitted.predict(given), (len(X), -1))
    assert len(np.unique(fitted.apply(given))) > 1
    for place, walk in enumerate(seen["walks"]):
        np.testing.assert_allclose(walk["prediction"], wanted[place], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(walk["reach"], reach[place], atol=1e-9)
        told = fitted.explain(given.iloc[place] if hasattr(given, "iloc") else given[place]).to_dict()
        assert [step["node"] for step in walk["steps"]] == [step["node"] for step in told["steps"]]
        for step, ours in zip(walk["steps"], told["steps"], strict=True):
            np.testing.assert_allclose(step["contribution"], ours["contribution"], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(step["z"], ours["z"], rtol=1e-9, atol=1e-12)
            assert (step["right"], step["share"]) == (ours["right"], pytest.approx(ours["share"], abs=1e-9))
            np.testing.assert_allclose(sorted(step["parts"]), sorted(v for _, v in ours["terms"]), atol=1e-9)
        summed = np.add(walk["root"], np.sum([step["contribution"] for step in walk["steps"]], axis=0))
        np.testing.assert_allclose(summed, walk["prediction"], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, np.ndarray, list, dict[str, Any]]:
    """Tree, row of the start, what was moved, and what the steps saw."""
    fitted = feature_trees.fitted("classes")
    folder = tmp_path_factory.mktemp("opened")
    X = feature_trees.rows()
    leaves = fitted.apply(frame_of(fitted, X))
    other = X[int(np.argmax(leaves != leaves[0]))]
    used = sorted({i for node in fitted.export_dict()["nodes"] if node["left"] is not None for i in node["inputs"]})
    moved = [[i, float(other[i])] for i in used]
    page = written(folder, fitted.export_dict(), examples=[("row 1", X[0].tolist())])
    script = f"const ROWS = [];const MOVED = {json.dumps(moved)};{WALK}{STEPS}{FINISH}"
    return fitted, X[0], moved, in_browser(folder, page, script)


def expected(fitted: Any, row: Any) -> dict[str, Any]:
    given = frame_of(fitted, np.array([row]))
    path = np.flatnonzero(fitted.decision_path(given).toarray()[0]).tolist()
    share = f"{fitted.predict_proba(given).max():.4g}"
    return {"lit": path, "prediction": f"Prediction: {fitted.predict(given)[0]}", "last": share, "rows": len(path) + 1}


def test_the_page_opens_with_the_path_of_the_first_row(opened) -> None:
    fitted, row, moved, seen = opened
    assert seen["shown"]
    assert seen["start"] == expected(fitted, row)
    assert seen["fields"] == [i for i, _ in moved]
    np.testing.assert_allclose(seen["filled"], row[seen["fields"]])


def test_moving_inputs_moves_path_and_prediction(opened) -> None:
    fitted, row, moved, seen = opened
    there = row.copy()
    for i, value in moved:
        there[i] = value
    wanted = expected(fitted, there)
    assert {key: seen["moved"][key] for key in wanted} == wanted
    assert seen["moved"]["lit"] != seen["start"]["lit"]
    assert seen["moved"]["row"] == there.tolist()
    assert seen["emptied"] == wanted  # an empty field is no number
    there[moved[0][0]] = float(f"{feature_trees.rows()[:, moved[0][0]].max():.4g}")
    wanted = expected(fitted, there)
    assert {key: seen["slid"][key] for key in wanted} == wanted
    assert seen["slid"]["row"] == there.tolist()
    assert seen["slid"]["number"] == there[moved[0][0]]
    assert seen["again"] == seen["start"]


def test_focus_tells_the_rule_and_keys_walk_and_fold(opened) -> None:
    fitted, _, _, seen = opened
    nodes = fitted.export_dict()["nodes"]
    assert seen["told"] == rule_text(nodes[0], "original", 4, None)
    assert (seen["right"], seen["down"], seen["left"]) == (nodes[0]["right"], nodes[0]["left"], 0)
    below = nodes[nodes[0]["left"]]
    if below["left"] is not None:
        assert seen["leaf or rule"] == rule_text(below, "original", 4, None)
    else:
        assert seen["leaf or rule"].startswith("no. Leaf: ")
    assert seen["folded"] == [True, "false"]
    assert seen["unfolded"] == [False, "true", nodes[0]["right"]]
    assert (seen["clicked"], seen["all"]) == (True, False)


def test_a_narrow_window_needs_no_sideways_scrolling(opened) -> None:
    assert opened[3]["wide"]
