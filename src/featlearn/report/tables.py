"""Tables of a page: what each column is, in words, and its cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .numbers import NOTHING, count, fixed, general, name, with_error

__all__ = [
    "Column",
    "Row",
    "Table",
    "crh_table",
    "layer_table",
    "lazy_table",
    "loss_table",
    "make_table",
    "speed_table",
]

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: heading, meaning, and the cell of a layer."""

    label: str
    meaning: str
    cell: Callable[[Entry], Markup]

    @property
    def heading(self) -> tuple[str, str]:
        """Label and meaning."""
        return self.label, self.meaning


@dataclass(frozen=True)
class Row:
    """One layer; ``muted`` rows are grey."""

    layer: str
    heading: Markup
    cells: list[Markup]
    muted: bool


@dataclass(frozen=True)
class Table:
    """Columns and rows under a caption."""

    caption: str
    columns: list[Column]
    rows: list[Row]


def make_table(
    caption: str, columns: Collection[Column], entries: Mapping[str, Entry], muted: Collection[str] = ()
) -> Table:
    """One row an entry, in their order."""
    rows = [
        Row(layer, name(layer), [column.cell(entry) for column in columns], layer in muted)
        for layer, entry in entries.items()
    ]
    return Table(caption, list(columns), rows)


def layer_table(report: Mapping[str, Any]) -> Table:
    """Every layer: alignment, chance, excess, ranks. Trivial layers are grey and have no excess."""
    layers = report["layers"]
    columns = [
        Column("shape", "Outputs × inputs of the weight W, for each group when there are several.", _shape),
        Column("NFA", "Correlation of WᵀW and the AGOP, ± one standard error.", lambda x: _alignment(x["nfa"])),
        Column("chance", "The null: NFA by chance.", lambda x: fixed(x["nfa"]["null"])),
        Column(
            "excess", "(NFA − chance) / (1 − chance), ± one standard error.", lambda x: _excess(x["nfa"], x["trivial"])
        ),
        Column(
            "excess at ½",
            "Excess when the AGOP is taken at power ½ instead.",
            lambda x: _excess(x["nfa_half"], x["trivial"], error=False),
        ),
    ]
    if any(layer["centered"] is not None for layer in layers.values()):
        columns += [
            Column(
                "centred",
                "NFA of the weights' change since the reference, ± one standard error.",
                lambda x: _alignment(x["centered"]),
            ),
        ]
    columns += [
        Column(
            "rank WᵀW",
            "Effective rank: the number of directions over which the eigenvalues spread.",
            lambda x: fixed(x["nfm_spectrum"]["effective_rank"], 1),
        ),
        Column("rank AGOP", "The same of the AGOP.", lambda x: fixed(x["agop_spectrum"]["effective_rank"], 1)),
        Column(
            "rank K",
            "The same of the tangent kernel K, the second moment of output gradients at the layer's outputs.",
            lambda x: fixed(x["tangent_spectrum"]["effective_rank"], 1),
        ),
        Column(
            "best power",
            "Power of the AGOP at which its cosine with WᵀW is highest.",
            lambda x: fixed(x["best_power"], 2),
        ),
    ]
    if any(layer["probe_error"] is not None for layer in layers.values()):
        columns.append(
            Column("probe error", "Relative error of the AGOP from random probes.", lambda x: fixed(x["probe_error"]))
        )
    return make_table("Layers in the order in which they run", columns, layers, _trivial(layers))


def loss_table(report: Mapping[str, Any]) -> Table | None:
    """Measures that use the loss; ``None`` when it was not given."""
    layers = {name: layer for name, layer in report["layers"].items() if layer["derivative"] is not None}
    columns = [
        Column(
            "early-time NFA",
            "Where the centred NFA starts under gradient descent from these weights, ± one standard error.",
            lambda x: _alignment(x["derivative"]),
        ),
        Column("chance", "Its chance level.", lambda x: fixed(x["derivative"]["null"])),
        Column("excess", "Its excess over chance.", lambda x: _excess(x["derivative"], x["trivial"])),
        Column(
            "loss NFA",
            "NFA with gradients of the loss in place of the outputs'.",
            lambda x: fixed(x["loss_nfa"]),
        ),
        Column(
            "FACT",
            "Correlation of WᵀW with −Wᵀ∂L/∂W. One at convergence with weight decay; without decay it means nothing.",
            lambda x: fixed(x["fact"]),
        ),
        Column("root FACT", "The same with the square root of its square.", lambda x: fixed(x["fact_root"])),
    ]
    if not layers:
        return None
    return make_table("Alignment with the loss", columns, layers, _trivial(report["layers"]))


def crh_table(report: Mapping[str, Any]) -> Table | None:
    """Canonical representation relations; ``None`` when no layer has them."""
    layers = {name: layer["crh"] for name, layer in report["layers"].items() if layer["crh"] is not None}
    words = {"h": "activations", "g": "loss gradients", "w": "weights"}
    columns = [
        Column(
            f"{side} {pair}",
            f"At the layer's {side}put: second moments of {words[pair[0]]} and {words[pair[1]]}.",
            lambda x, key=f"{side}_{pair}": fixed(x.get(key)),  # type: ignore[misc]
        )
        for side in ("out", "in")
        for pair in ("hg", "hw", "gw")
    ]
    columns.append(Column("chance in gw", "Chance level of the last one.", lambda x: fixed(x.get("in_gw_null"))))
    if not layers:
        return None
    return make_table("Canonical representation relations", columns, layers, _trivial(report["layers"]))


def speed_table(report: Mapping[str, Any]) -> Table | None:
    """Feature speed under one infinitesimal gradient step; ``None`` when it was not measured."""
    layers = {name: layer["speed"] for name, layer in report["layers"].items() if layer["speed"] is not None}
    columns = [
        Column("gradient", "Norm of the loss gradient at the layer's output.", lambda x: general(x["backward_norm"])),
        Column(
            "share of decay",
            "Part of the loss decrease that passes through this output.",
            lambda x: fixed(x["loss_decay_share"]),
        ),
        Column(
            "cosine",
            "Between the movement of the features and the steepest descent direction.",
            lambda x: fixed(x["cos_theta"]),
        ),
        Column(
            "movement",
            "Root mean square change of the features, for a step at rate one.",
            lambda x: general(x["feature_change_rms"]),
        ),
        Column(
            "sensitivity", "Movement of the features per unit of loss decrease.", lambda x: general(x["sensitivity"])
        ),
        Column(
            "cut",
            "Whether everything below reaches the loss through this output only; then the share says how much was "
            "learned up to here.",
            lambda x: Markup("yes" if x["is_cut"] else "no"),
        ),
    ]
    return make_table("Feature speed", columns, layers, _trivial(report["layers"])) if layers else None


def lazy_table(report: Mapping[str, Any]) -> Table | None:
    """Change of weights and features since the reference; ``None`` when it was not measured."""
    if report["lazy_rich"] is None:
        return None
    columns = [
        Column("weights", "‖W − W₀‖ / ‖W₀‖, Frobenius norms.", lambda x: fixed(x["weight_change"])),
        Column("spectral", "‖W − W₀‖, the largest singular value.", lambda x: fixed(x["weight_change_spectral"])),
        Column(
            "features", "Change of the outputs of the layer, relative to before.", lambda x: fixed(x["feature_change"])
        ),
        Column("pattern", "Share of units whose sign has switched.", lambda x: fixed(x["pattern_distance"])),
        Column(
            "CKA",
            "Similarity of the features to those before: one means the same up to rotation.",
            lambda x: fixed(x["cka"]),
        ),
    ]
    entries = report["lazy_rich"]["layers"]
    return make_table("Change since the reference", columns, entries, _trivial(report["layers"]))


def _trivial(layers: Mapping[str, Entry]) -> set[str]:
    return {name for name, layer in layers.items() if layer["trivial"]}


def _shape(layer: Entry) -> Markup:
    size = Markup("{}&nbsp;×&nbsp;{}").format(count(layer["k"]), count(layer["d"]))
    return size if layer["groups"] == 1 else Markup("{}&nbsp;groups<br>{}").format(count(layer["groups"]), size)


def _alignment(alignment: Entry | None) -> Markup:
    return NOTHING if alignment is None else with_error(alignment["value"], alignment["standard_error"])


def _excess(alignment: Entry | None, trivial: bool, error: bool = True) -> Markup:
    if alignment is None or trivial:
        return NOTHING
    if not error:
        return fixed(alignment["excess"], 2)
    return with_error(alignment["excess"], alignment["excess_standard_error"], 2)
