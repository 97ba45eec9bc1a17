"""Plain dictionaries as ``FeatureReport.to_dict()`` makes them, built by hand: what plots and pages must cope with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

NAN = float("nan")
REASON = "one effective direction (r = 1): the null equals the value, so there is no excess"


def alignment(value=0.8, null=0.6, null_sd=0.02, error=0.004, power=1.0, statistic="pearson", reason=None) -> dict:
    excess = (value - null) / (1 - null)
    far = abs(value - null) > 2 * math.hypot(error, null_sd)
    return {
        "verdict": ("above" if value > null else "below") if far else "at",
        "power": power,
        "statistic": statistic,
        "value": value,
        "null": null,
        "null_sd": null_sd,
        "excess": excess,
        "excess_standard_error": error / (1 - null),
        "standard_error": error,
        "interval": [value - 1.96 * error, min(value + 1.96 * error, 1.0)],
        "biased": False,
        "reason": reason,
    }


def undefined(value=NAN, reason=REASON, **chosen) -> dict:
    nothing = dict.fromkeys(("null", "null_sd", "excess", "excess_standard_error", "standard_error"), NAN)
    return (
        alignment(reason=reason, **chosen)
        | nothing
        | {
            "value": value,
            "interval": [NAN, NAN],
            "verdict": "unknown",
        }
    )


def spectrum(rank: int, decay: float, scale: float = 1.0) -> dict:
    values = scale * np.arange(1, rank + 1, dtype=float) ** -decay
    shares = values / values.sum()
    return {
        "values": values.tolist(),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "stable_rank": float(((shares / shares[0]) ** 2).sum()),
        "participation_ratio": float(1 / (shares**2).sum()),
        "top_share": float(shares[0]),
    }


def waves(shape: tuple[int, ...], count: int, seed: int) -> list[list[float]]:
    """Orthonormal oriented patterns of a patch: something to look at."""
    random = np.random.default_rng(seed)
    *_, height, width = (1, 1, *shape)[-3:]
    y, x = np.mgrid[:height, :width]
    rows = []
    for index in range(count):
        angle, colour = index * math.pi / 4, random.normal(size=int(np.prod(shape)) // (height * width))
        pattern = np.cos(1.6 * (index // 2) * (x * math.cos(angle) + y * math.sin(angle)) / max(width, 1) * 3 + index)
        rows.append((colour[:, None, None] * pattern).ravel() + 0.1 * random.normal(size=int(np.prod(shape))))
    basis = np.linalg.qr(np.array(rows).T)[0].T
    return (basis * np.sign(np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1))).tolist()


def coordinates(d: int) -> dict:
    group = {"lam": [1.0, 0.5], "c": [1.0, 0.2], "q": [0.1, 0.2], "s": [1.0, 0.9], "t": [0.3, 0.1]}
    return {"d": d, "floor": 1e-15, "groups": [group]}


def layer(name="fc", k=64, d=128, patch_shape=None, index=0, **changes) -> dict[str, Any]:
    """One ordinary layer; ``changes`` replaces entries."""
    rank = min(k, d)
    nfa = changes.pop("nfa", None) or alignment(0.70 + 0.02 * (index % 9), 0.55 + 0.015 * (index % 11))
    half = alignment(0.9, 0.75, power=0.5)
    directions = min(10, d)
    return {
        "name": name,
        "kind": "Conv2d" if patch_shape else "Linear",
        "k": k,
        "d": d,
        "groups": 1,
        "positions": 1024.0 if patch_shape else 1.0,
        "calls": 1,
        "trivial": False,
        "n_samples": 1000,
        "subspace_overlap": 0.62,
        "power": 1.0,
        "statistic": "pearson",
        "best_power": 0.55,
        "probe_error": None,
        "biased": False,
        "energy_share": None,
        "fact": None,
        "fact_root": None,
        "loss_nfa": None,
        "crh": None,
        "speed": None,
        "reason": nfa["reason"],
        "shared_with": [],
        "patch_shape": None if patch_shape is None else list(patch_shape),
        "nfa": nfa,
        "nfa_half": half,
        "alignments": [nfa, half],
        "coordinates": coordinates(d),
        "centered": None,
        "derivative": None,
        "nfm_spectrum": spectrum(rank, 0.5 + 0.03 * index),
        "agop_spectrum": spectrum(rank, 1.1 + 0.05 * index, 1e-3),
        "tangent_spectrum": spectrum(k, 0.8 + 0.04 * index, 10.0),
        "nfm_directions": waves(patch_shape or (d,), directions, 2 * index),
        "agop_directions": waves(patch_shape or (d,), directions, 2 * index + 1),
        **changes,
    }


def with_reference(entry: dict, index: int) -> dict:
    value = 0.35 + 0.55 * ((index * 7) % 10) / 10
    return entry | {
        "centered": alignment(value, 0.3, error=0.01),
        "energy_share": {"nfm": 0.4, "agop": 0.7},
    }


def with_loss(entry: dict, index: int) -> dict:
    names = ["out_hg", "out_hw", "out_gw", "in_hg", "in_hw", "in_gw", "in_gw_null"]
    return entry | {
        "derivative": alignment(0.5, 0.4, error=0.01),
        "fact": 0.93 - 0.01 * index,
        "fact_root": 0.95,
        "loss_nfa": 0.78,
        "crh": {name: 0.9 - 0.05 * place for place, name in enumerate(names)},
        "speed": {
            "backward_norm": 0.0123,
            "loss_decay_share": 0.04,
            "cos_theta": -0.3,
            "feature_change_rms": 1.2e-5,
            "sensitivity": 0.4,
            "is_cut": index % 2 == 0,
        },
    }


def report(layers: list[dict], skipped: dict[str, str] | None = None, **changes) -> dict[str, Any]:
    """A report of these layers with the summary that belongs to them."""
    real = [entry for entry in layers if not entry["trivial"]]
    scored = [entry for entry in real if math.isfinite(entry["nfa"]["excess"])]
    above = [e["name"] for e in scored if e["nfa"]["verdict"] == "above"]

    def mean(key: str) -> float:
        return float(np.mean([entry["nfa"][key] for entry in scored])) if scored else NAN

    plain = {
        "kind": "FeatureReport",
        "schema": 1,
        "summary": {
            "n_layers": len(real),
            "n_trivial": len(layers) - len(real),
            "n_skipped": len(skipped or {}),
            "above_chance": above,
            "strongest": [e["name"] for e in sorted(scored, key=lambda e: -e["nfa"]["excess"])[:3]],
            "mean_nfa": mean("value"),
            "mean_null": mean("null"),
            "mean_excess": mean("excess"),
        },
        "layers": {entry["name"]: entry for entry in layers},
        "skipped": skipped or {},
        "provenance": provenance(),
        "lazy_rich": None,
        "kernel_drift": None,
        "collapse": None,
    }
    return plain | changes


def provenance(**changes) -> dict[str, Any]:
    return {
        "model": "ResNet",
        "parameters": 272474,
        "weights_sha256": "12fca82f" * 8,
        "data_sha256": "ab54a98c" * 8,
        "data": "CIFAR-10 (JPEG), test images",
        "n_samples": 1000,
        "n_batches": 20,
        "random_state": 0,
        "probes": "exact",
        "probes_requested": "exact",
        "backward_passes": 200,
        "compression": True,
        "batched": "loop",
        "statistic": "pearson",
        "power": 1.0,
        "dtype": "float32",
        "device": "cpu",
        "loss": None,
        "mean_loss": None,
        "versions": {"featlearn": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "numpy": "2.3.1"},
        "seconds": 74.31,
        "date": "2025-06-01T12:00:00+00:00",
        "command": "featlearn measure nets.py:resnet20 --data photos --html report.html",
        "reference": None,
        "notes": [],
        "complete": True,
        **changes,
    }


def small() -> dict[str, Any]:
    """Three layers of a plain network, nothing optional measured, exact, no reference, no loss."""
    return report([layer("conv1", 16, 27, (3, 3, 3), 0), layer("fc1", 64, 128, None, 1), trivial("fc2")])


def trivial(name: str) -> dict[str, Any]:
    return layer(name, 10, 64, None, 2, trivial=True, nfa=undefined(1.0, "raw outputs of the last linear layer: K = I"))


def resnet() -> dict[str, Any]:
    """Twenty-odd layers with everything measured: reference, loss, lazy/rich, collapse, skips, undefined values."""
    layers = [layer("conv1", 16, 27, (3, 3, 3), 0)]
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(4):
            for conv in (1, 2):
                name = f"layer{stage}.{block}.conv{conv}"
                layers.append(layer(name, width, 9 * width, (width, 3, 3), len(layers)))
    long = "encoder.transformer.blocks.11.attention.self.query_key_value_projection_with_a_long_name.q"
    layers.append(layer(long, 64, 64, None, len(layers), nfa=alignment(-0.08, 0.05, error=0.02)))
    layers.append(layer("stage4.depthwise", 1, 9, (1, 3, 3), 3, groups=64, nfa=undefined(0.71)))
    layers.append(layer("below.chance", 32, 64, None, 4, nfa=alignment(0.855, 0.873, error=0.002)))
    layers.append(layer("near.chance", 32, 64, None, 5, nfa=alignment(0.9501, 0.95, 0.01, error=0.003)))
    layers = [with_loss(with_reference(entry, index), index) for index, entry in enumerate(layers)]
    layers.append(trivial("fc"))
    plain = report(layers, {"embed": "Embedding layers have integer inputs: no gradient with respect to them."})
    plain["provenance"] |= {
        "loss": "cross_entropy",
        "mean_loss": 0.412,
        "reference": "weights at initialisation",
        "notes": ["Samples 1-1000 of the test split."],
    }
    names = [entry["name"] for entry in layers]
    plain["lazy_rich"] = {
        "layers": {
            name: {
                "weight_change": 1.3,
                "weight_change_spectral": 2.1,
                "feature_change": 0.9,
                "pattern_distance": NAN if index % 5 == 4 else 0.21,
                "cka": 0.45,
            }
            for index, name in enumerate(names)
        },
        "model": {"weight_change": 1.4, "feature_change": 1.1, "d_lr": 0.11, "d_lr_targets": 0.23},
        "n_samples": 1000,
        "reason": "layer1.1.conv2 has no sign that switched",
    }
    plain["kernel_drift"] = {
        "distance": 0.41,
        "distance_centered": 0.72,
        "alignment": 0.61,
        "reference_alignment": 0.12,
        "n_samples": 512,
        "probes": "exact",
        "loss": 0.412,
        "reference_loss": 2.31,
    }
    plain["collapse"] = {
        "nc1_trace": 0.8,
        "nc1": 1.7,
        "nc2": 0.013,
        "nc2_orthogonal": 0.2,
        "nc3": NAN,
        "ncc": 0.83,
        "n_classes": 10,
        "n_samples": 1000,
        "reason": "nc3 needs weight=, the readout's weight",
    }
    return plain


def at_initialisation(trained: dict[str, Any]) -> dict[str, Any]:
    """The same network, on its null."""
    layers = []
    for index, entry in enumerate(trained["layers"].values()):
        null = 0.5 + 0.01 * (index % 7)
        near = alignment(null + 0.004 * (index % 3 - 1), null, 0.015)
        layers.append(entry if entry["trivial"] else entry | {"nfa": near, "centered": None})
    return report(layers)


def one_channel() -> dict[str, Any]:
    """A 5 x 5 convolution of grey images, one group of layers with groups, random probes."""
    layers = [
        layer("features.0", 32, 25, (1, 5, 5), 0, probe_error=0.03, biased=True),
        layer("features.3", 16, 144, (16, 3, 3), 1, groups=2, probe_error=0.05, biased=True),
    ]
    plain = report(layers)
    plain["provenance"] |= {"probes": 2, "probes_requested": "auto", "command": None, "data": None}
    return plain


def perceptron() -> dict[str, Any]:
    """A linear first layer over 28 x 28 images."""
    plain = {"patch_shape": None, "kind": "Linear", "positions": 1.0}
    return report([layer("fc1", 256, 784, (1, 28, 28), 0) | plain, layer("fc2", index=1)])


def history(names: list[str], steps: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)) -> list[dict]:
    """Rows as the tracker's history is handed to a page."""
    rows = []
    for step in steps:
        grown = math.log1p(step) / math.log1p(steps[-1])
        rows.append(
            {
                "step": step,
                "layers": {
                    name: {
                        "nfa": 0.5 + 0.04 * (index % 8) * grown,
                        "nfa_null": 0.5,
                        "nfa_excess": NAN if index == 3 and step == 4 else 0.08 * (index % 8) * grown,
                        "nfa_standard_error": 0.005,
                        "centered_nfa": NAN if step == 0 else 0.3 + 0.5 * grown,
                    }
                    for index, name in enumerate(names)
                },
            }
        )
    return rows
