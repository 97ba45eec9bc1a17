"""What the command writes and prints: pages, numbers, tables, and what is left of interrupted work."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from feature_reports import layer as layer_entry
from feature_reports import resnet, small, undefined

from featlearn import FeatureReport
from featlearn.cli.tables import count, layer_table, print_report, summary_lines

SLOW = """
import time
from pathlib import Path

import torch


def loader():
    for i in range(1000):
        yield torch.ones(5, 6) + i * torch.arange(6.0)
        if i == 2:
            {stop}
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict, int], str]:
    """What a terminal of so many columns shows of a report."""

    def show(report: dict, width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        print_report(report, stream := Terminal())
        return stream.getvalue()

    return show


# --- files ------------------------------------------------------------------------------------------------------------


def test_html_brings_its_numbers_as_json_beside_it(measure, folder) -> None:
    outcome = measure("--html", "report.html")
    assert outcome.code == 0, outcome.err
    assert "Wrote report.html and report.json." in outcome.out
    page, numbers = (
        (folder / "report.html").read_text(encoding="utf-8"),
        json.loads((folder / "report.json").read_text()),
    )
    assert page.lstrip().lower().startswith("<!doctype html>")
    for layer in numbers["layers"].values():
        assert repr(layer["nfa"]["value"]) in page
    assert sorted(path.name for path in folder.iterdir()) == ["nets.py", "report.html", "report.json", "rows.npz"]


def test_the_written_numbers_read_back_as_a_report_and_tell_how_they_came_about(measure, folder) -> None:
    assert measure("--json", "numbers.json", "--seed", 3, "--power", 0.5, "--layers", "0", "--layers", "2").code == 0
    report = FeatureReport.from_dict(json.loads((folder / "numbers.json").read_text()))
    assert list(report) == ["0", "2"]
    about = report.provenance
    assert (about["random_state"], about["power"], about["n_samples"], about["complete"]) == (3, 0.5, 60, True)
    assert about["command"] == (
        "featlearn measure nets.py:mlp --data rows.npz --batch-size 15 --json numbers.json --seed 3 --power 0.5 "
        "--layers 0 --layers 2"
    )


def test_json_may_have_a_name_of_its_own_beside_html(measure, folder) -> None:
    assert measure("--html", "page.html", "--json", "numbers.json").code == 0
    assert {path.suffix for path in folder.iterdir()} == {".py", ".npz", ".html", ".json"}
    assert not (folder / "page.json").exists()


def test_json_dash_is_one_line_of_numbers_on_standard_output_and_the_table_elsewhere(measure) -> None:
    outcome = measure("--json", "-")
    assert len(outcome.out.splitlines()) == 1
    assert json.loads(outcome.out)["kind"] == "FeatureReport"
    assert "above chance" in outcome.err


def test_quiet_prints_numbers_only_where_asked_for(measure, folder) -> None:
    assert measure("--quiet").out == ""
    outcome = measure("--quiet", "--json", "-")
    assert outcome.err == ""
    assert len(json.loads(outcome.out)["layers"]) == 3
    outcome = measure("-q", "--html", "report.html")
    assert (outcome.out, outcome.err, (folder / "report.html").is_file()) == ("", "", True)


def test_a_failure_leaves_earlier_files_as_they_were(measure, folder) -> None:
    for name in ("report.html", "report.json"):
        (folder / name).write_text("from before", encoding="utf-8")
    np.savez("spoilt.npz", X=np.array([[np.nan] * 6, [1.0] * 6]))
    assert measure("--html", "report.html", data="spoilt.npz").code == 4
    assert {(folder / name).read_text() for name in ("report.html", "report.json")} == {"from before"}
    assert measure("--html", "report.html").code == 0
    assert "from before" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_file_that_cannot_be_written_is_refused_before_the_model_is_loaded(measure) -> None:
    outcome = measure("--html", "absent/report.html", model="nets.py:broken")
    assert outcome.code == 2
    assert "there is no folder absent" in outcome.err


# --- options that change what is measured -----------------------------------------------------------------------------


def test_every_option_of_the_method_reaches_the_report(measure) -> None:
    outcome = measure("--probes", 2, "--statistic", "cosine", "--loss", "mse", "--json", "-")
    plain = json.loads(outcome.out)
    about = plain["provenance"]
    assert (about["probes"], about["statistic"], about["loss"]) == (2, "cosine", "mse")
    assert plain["layers"]["0"]["derivative"]["value"] is not None


def test_outputs_and_loss_of_ones_own(measure) -> None:
    one = json.loads(measure("--outputs", "nets.py:first_output", "--json", "-").out)
    assert one["provenance"]["backward_passes"] == 4  # one output, four batches
    own = json.loads(measure("--loss", "nets.py:absolute", "--json", "-").out)
    assert own["provenance"]["loss"] == "absolute"
    torch_loss = json.loads(measure("--loss", "torch.nn:CrossEntropyLoss", "--json", "-").out)
    built_in = json.loads(measure("--loss", "cross_entropy", "--json", "-").out)
    assert torch_loss["provenance"]["mean_loss"] == pytest.approx(built_in["provenance"]["mean_loss"])


# --- interrupted ------------------------------------------------------------------------------------------------------


def test_an_interrupted_measurement_is_written_and_marked_and_130(measure, folder) -> None:
    (folder / "slow.py").write_text(SLOW.format(stop="raise KeyboardInterrupt"), encoding="utf-8")
    outcome = measure("--html", "report.html", data="slow.py:loader")
    assert outcome.code == 130
    assert "interrupted. The report of the 15 samples measured until then is in report.html" in outcome.err
    about = json.loads((folder / "report.json").read_text())["provenance"]
    assert (about["complete"], about["n_samples"], about["n_batches"]) == (False, 15, 3)
    assert "interrupted" in (folder / "report.html").read_text(encoding="utf-8").lower()


def test_interrupted_before_the_first_batch_nothing_is_written(measure, folder) -> None:
    (folder / "slow.py").write_text("def loader():\n    raise KeyboardInterrupt\n    yield\n", encoding="utf-8")
    outcome = measure("--html", "report.html", data="slow.py:loader")
    assert (outcome.code, outcome.out) == (130, "")
    assert "nothing was written" in outcome.err
    assert not (folder / "report.html").exists()


def test_control_c_ends_a_run_with_what_was_measured(folder) -> None:
    stop = 'Path("waiting").touch(); time.sleep(60)'
    (folder / "slow.py").write_text(SLOW.format(stop=stop), encoding="utf-8")
    command = [sys.executable, "-m", "featlearn", "measure", "nets:mlp", "--data", "slow:loader", "--json", "r.json"]
    # What runs in the background of a shell ignores Ctrl-C, and so would its children.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        deadline = time.monotonic() + 60
        while not (folder / "waiting").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads((folder / "r.json").read_text())["provenance"]["complete"] is False
    assert "Traceback" not in err


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("report", [small(), resnet()], ids=["small", "resnet"])
def test_every_layer_and_its_numbers_fit_the_terminal(printed, report, width) -> None:
    text = printed(report, width)
    assert max(len(line) for line in text.splitlines() if line not in report["layers"]) <= width
    for name, layer in report["layers"].items():
        row = text.split(f"\n{name}")[1].split(" ±")[0].split()
        assert f"{layer['nfa']['value']:.3f}" in row


def test_stars_mark_the_layers_that_the_report_calls_above_chance() -> None:
    report = resnet()
    starred = [line.split()[0] for line in layer_table(report) if " * " in line or line.endswith(" *")]
    assert starred == report["summary"]["above_chance"]
    assert 0 < len(starred) < len(report["layers"])


def test_columns_that_a_terminal_has_no_room_for_are_left_out(printed, measure) -> None:
    narrow, wide = printed(small(), 60), printed(small(), 120)
    assert "best power" not in narrow
    assert "excess" in narrow
    assert "best power" in wide
    assert "best power" in measure().out  # a file or a pipe has room for all


def test_a_centred_column_is_there_only_with_a_reference() -> None:
    assert "centred" in layer_table(resnet())[0]
    assert "centred" not in layer_table(small())[0]


def test_undefined_numbers_are_dashes_and_their_reason_is_told(printed) -> None:
    report = small()
    name = next(iter(report["layers"]))
    report["layers"][name] = layer_entry(name, nfa=undefined(), reason="W is zero") | {"nfa_half": undefined()}
    report["summary"] |= {"above_chance": [], "strongest": []}
    text = printed(report, 120)
    assert "nan" not in text
    assert f"{name}: W is zero" in text


def test_sentences_count_what_they_count() -> None:
    assert [count(n, noun) for n, noun in ((1, "layer"), (2, "batch"), (3, "backward pass"), (1000, "sample"))] == [
        "1 layer",
        "2 batches",
        "3 backward passes",
        "1,000 samples",
    ]
    report = small()
    report["skipped"] = {"embed": "an embedding"}
    assert "Skipped embed: an embedding" in summary_lines(report)
