"""What measuring returns: one frozen record a layer, one report a model; numbers in, plain dictionaries out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..linalg.spectrum import Spectrum
from .alignment import Alignment, alignment_from_coordinates
from .coordinates import Coordinates
from .parts import AlignmentParts

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .collapse import NeuralCollapse
    from .drift import KernelDrift, LazyRich

__all__ = ["FeatureReport", "LayerReport"]

NAN = float("nan")

# Fields that are plain numbers, strings or dictionaries of them.
_PLAIN = (
    *("name", "kind", "k", "d", "groups", "positions", "calls", "trivial", "n_samples", "subspace_overlap"),
    *("power", "statistic", "best_power", "probe_error", "biased", "energy_share"),
    *("fact", "fact_root", "loss_nfa", "crh", "speed", "reason"),
)
# Of the parts, in a table: what sums to the cosine at power 1; and what it is made of otherwise.
_SUMMANDS = ("initial", "mixed", "learned")
_FACTORS = ("directional", "spectral", "weight_kernel", "weight_kernel_null")
# Fields that JSON may have turned from nan to null: always there, and there with a loss.
_UNDEFINED_AS_NULL = ("subspace_overlap", "best_power", "fact", "fact_root", "loss_nfa")


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerReport:
    r"""Everything measured in one layer ``h[i, p] = W x[i, p] + b``.

    A field that was not asked for is ``None``; one that is undefined is ``nan``, and ``reason`` says why.

    Attributes
    ----------
    name, kind : str
        Module name (with ``.q``, ``.k``, ... for attention) and layer type.
    k, d : int
        Outputs and inputs of one group's weight matrix: ``W`` is ``groups`` blocks of shape (k, d).
    positions : float
        Positions per sample and call: pixels of a convolution, tokens of a sequence, 1 for a plain layer.
    calls : int
        Times the module ran in one forward pass; its positions add up.
    shared_with : tuple of str
        Other layers holding the same ``Parameter``.
    patch_shape : tuple of int or None
        ``(channels / groups, *kernel)`` of a convolution; directions reshape to it.
    trivial : bool
        The layer is the model's last linear layer and its raw outputs were measured: K is the identity, the ansatz
        holds by definition, and the layer is left out of bars and averages.
    n_samples : int
        Samples averaged over.
    nfm, agop : Tensor of shape (groups, d, d) or None
        ``W^T W`` and ``W^T K W``; ``None`` when ``d > 1024`` or there is more than one group and ``groups * d > 1024``.
    tangent_kernel : Tensor of shape (groups, k, k) or None
        ``K``; ``None`` when ``k > 1024``, or isotropic (``trivial``).
    nfm_spectrum, agop_spectrum, tangent_spectrum : Spectrum
        Eigenvalues over all groups, with effective rank, stable rank, participation ratio and top share.
    nfm_directions, agop_directions : array of shape (d, m)
        Top ``m <= 10`` eigenvectors of the first group, largest-magnitude entry positive.
    subspace_overlap : float
        ``||V_F^T V_G||_F^2 / m`` of the two sets of directions: 1 for the same subspace.
    alignments : tuple of Alignment
        The neural feature ansatz at powers 1, 1/2 and the chosen one, Pearson and cosine.
    coordinates : Coordinates
        The few numbers from which :meth:`nfa_at` is exact at any power.
    best_power : float
        Power in [0.10, 2.00] of the highest cosine.
    probe_error : float or None
        Relative Frobenius error of the AGOP from random probes (``None`` in exact mode).
    biased : bool
        Random probes were used: powers other than 1 and spectra are plug-in values.
    centered : Alignment or None
        Ansatz of ``D = W - W_0`` (needs ``reference=``).
    energy_share : dict or None
        ``{"nfm": ||D^T D|| / ||F||, "agop": ||D^T K D|| / ||G||}``: if both are tiny the layer is lazy.
    parts : AlignmentParts or None
        The cosine at power 1 taken apart: initial and learned weights, directions and sizes, and the plain cosine of
        ``W W^T`` and K. ``None`` for the trivial layer.
    derivative : Alignment or None
        Early-time (derivative) ansatz (needs ``loss=``).
    fact, fact_root, loss_nfa : float or None
        FACT, its root form, and the ansatz with loss gradients (need ``loss=``).
    crh : dict or None
        Six canonical-representation correlations, and ``in_gw_null`` (needs ``loss=``).
    speed : dict or None
        ``backward_norm, loss_decay_share, cos_theta, feature_change_rms, sensitivity, is_cut`` (needs ``loss=``).
    reason : str or None
        Why a field is ``nan``.
    """

    name: str
    kind: str
    k: int
    d: int
    groups: int
    positions: float
    calls: int
    shared_with: tuple[str, ...]
    patch_shape: tuple[int, ...] | None
    trivial: bool
    n_samples: int
    nfm: torch.Tensor | None
    agop: torch.Tensor | None
    tangent_kernel: torch.Tensor | None
    nfm_spectrum: Spectrum
    agop_spectrum: Spectrum
    tangent_spectrum: Spectrum
    nfm_directions: NDArray[np.float64]
    agop_directions: NDArray[np.float64]
    subspace_overlap: float
    alignments: tuple[Alignment, ...]
    coordinates: Coordinates
    power: float
    statistic: str
    best_power: float
    probe_error: float | None
    biased: bool
    centered: Alignment | None = None
    energy_share: dict[str, float] | None = None
    parts: AlignmentParts | None = None
    derivative: Alignment | None = None
    fact: float | None = None
    fact_root: float | None = None
    loss_nfa: float | None = None
    crh: dict[str, float] | None = None
    speed: dict[str, float | bool] | None = None
    reason: str | None = None

    def alignment(self, power: float | None = None, statistic: str | None = None) -> Alignment:
        """The measured ansatz correlation at a power and statistic (default: those asked for), with null and error."""
        power = self.power if power is None else power
        statistic = self.statistic if statistic is None else statistic
        for entry in self.alignments:
            if entry.statistic == statistic and math.isclose(entry.power, power):
                return entry
        return alignment_from_coordinates(self.coordinates, power, statistic, biased=self.biased)

    def nfa_at(self, power: float, statistic: str | None = None) -> float:
        """Ansatz correlation at any power, exact from the stored coordinates (plug-in in probe mode)."""
        statistic = self.statistic if statistic is None else statistic
        return alignment_from_coordinates(self.coordinates, power, statistic, biased=self.biased).value

    @property
    def nfa(self) -> float:
        """Ansatz correlation at the power and statistic asked for."""
        return self.alignment().value

    @property
    def nfa_null(self) -> float:
        """Value expected when K is turned at random inside the column space of W."""
        return self.alignment().null

    @property
    def nfa_null_sd(self) -> float:
        """Standard deviation of the null over random rotations."""
        return self.alignment().null_sd

    @property
    def nfa_excess(self) -> float:
        """``(nfa - null) / (1 - null)``."""
        return self.alignment().excess

    @property
    def nfa_standard_error(self) -> float:
        """Jackknife standard error of ``nfa``: sampling and probe noise."""
        return self.alignment().standard_error

    @property
    def nfa_interval(self) -> tuple[float, float]:
        """95% interval of ``nfa``."""
        return self.alignment().interval

    @property
    def nfa_half(self) -> Alignment:
        """The ansatz at power 1/2, with its null."""
        return self.alignment(0.5)

    @property
    def centered_nfa(self) -> float | None:
        """Ansatz correlation of the weight change ``W - W_0``."""
        return None if self.centered is None else self.centered.value

    @property
    def derivative_nfa(self) -> float | None:
        """Early-time ansatz: the limit of the centred ansatz as training starts."""
        return None if self.derivative is None else self.derivative.value

    def __getattr__(self, name: str) -> Any:
        speed = self.__dict__.get("speed")
        if speed is not None and name in speed:
            return speed[name]
        raise AttributeError(f"LayerReport has no field {name!r}.")

    def to_dict(self, matrices: bool = False) -> dict[str, Any]:
        """Plain numbers, lists and strings; ``matrices=True`` adds F, G and K."""
        plain = {key: getattr(self, key) for key in _PLAIN}
        plain["shared_with"] = list(self.shared_with)
        plain["patch_shape"] = None if self.patch_shape is None else list(self.patch_shape)
        plain["nfa"] = self.alignment().to_dict()
        plain["nfa_half"] = self.nfa_half.to_dict()
        plain["alignments"] = [entry.to_dict() for entry in self.alignments]
        plain["coordinates"] = self.coordinates.to_dict()
        for key in ("centered", "derivative", "parts"):
            entry = getattr(self, key)
            plain[key] = None if entry is None else entry.to_dict()
        for key in ("nfm_spectrum", "agop_spectrum", "tangent_spectrum"):
            plain[key] = getattr(self, key).to_dict()
        for key in ("nfm_directions", "agop_directions"):
            plain[key] = getattr(self, key).T.tolist()
        if matrices:
            for key in ("nfm", "agop", "tangent_kernel"):
                matrix = getattr(self, key)
                plain[key] = None if matrix is None else matrix.tolist()
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LayerReport:
        """Inverse of :meth:`to_dict`, also through JSON, whose null stands for both ``None`` and nan."""
        values = {key: value for key, value in plain.items() if key not in ("nfa", "nfa_half")}
        values["shared_with"] = tuple(plain["shared_with"])
        values["patch_shape"] = None if plain["patch_shape"] is None else tuple(plain["patch_shape"])
        values["alignments"] = tuple(Alignment.from_dict(entry) for entry in plain["alignments"])
        values["coordinates"] = Coordinates.from_dict(plain["coordinates"])
        for key in ("centered", "derivative"):
            values[key] = None if plain[key] is None else Alignment.from_dict(plain[key])
        parts = plain.get("parts")  # which reports written by earlier versions do not have
        values["parts"] = None if parts is None else AlignmentParts.from_dict(parts)
        for key in ("nfm_spectrum", "agop_spectrum", "tangent_spectrum"):
            values[key] = Spectrum(np.asarray(plain[key]["values"]))
        for key in ("nfm_directions", "agop_directions"):
            values[key] = np.asarray(plain[key], dtype=np.float64).reshape(-1, plain["d"]).T
        for key in _UNDEFINED_AS_NULL if plain["derivative"] is not None else _UNDEFINED_AS_NULL[:2]:
            values[key] = NAN if plain[key] is None else plain[key]
        for key in ("energy_share", "crh", "speed"):
            if plain[key] is not None:
                values[key] = {name: NAN if value is None else value for name, value in plain[key].items()}
        if plain["biased"] and plain["probe_error"] is None:
            values["probe_error"] = NAN
        for key in ("nfm", "agop", "tangent_kernel"):
            matrix = plain.get(key)
            values[key] = None if matrix is None else torch.tensor(matrix, dtype=torch.float64)
        return cls(**values)


@dataclass(frozen=True, eq=False)
class FeatureReport:
    """Feature learning in every layer of one model on one data set.

    Attributes
    ----------
    layers : mapping of str to LayerReport
        In the order in which the layers ran.
    skipped : mapping of str to str
        Layers that were not measured, each with the reason.
    provenance : mapping
        What was measured, on which data, with which seed, versions and cost.
    lazy_rich, kernel_drift : LazyRich, KernelDrift or None
        Distance from the reference checkpoint (needs ``reference=``).
    collapse : NeuralCollapse or None
        Neural collapse of the input of the last linear layer (needs integer targets in the batches).
    """

    layers: Mapping[str, LayerReport]
    skipped: Mapping[str, str]
    provenance: Mapping[str, Any]
    lazy_rich: LazyRich | None = field(default=None)
    kernel_drift: KernelDrift | None = field(default=None)
    collapse: NeuralCollapse | None = field(default=None)

    def __getitem__(self, name: str) -> LayerReport:
        return self.layers[name]

    def __iter__(self) -> Any:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def summary(self) -> dict[str, Any]:
        """Headline: layers above chance (:attr:`Alignment.verdict`), the three strongest, the mean excess."""
        real = [layer for layer in self.layers.values() if not layer.trivial]
        scored = [layer for layer in real if math.isfinite(layer.nfa_excess)]
        above = [layer.name for layer in scored if layer.alignment().verdict == "above"]
        strongest = sorted(scored, key=lambda layer: -layer.nfa_excess)[:3]
        return {
            "n_layers": len(real),
            "n_trivial": len(self.layers) - len(real),
            "n_skipped": len(self.skipped),
            "above_chance": above,
            "strongest": [layer.name for layer in strongest],
            "mean_nfa": float(np.mean([layer.nfa for layer in scored])) if scored else NAN,
            "mean_null": float(np.mean([layer.nfa_null for layer in scored])) if scored else NAN,
            "mean_excess": float(np.mean([layer.nfa_excess for layer in scored])) if scored else NAN,
        }

    def frame(self) -> pd.DataFrame:
        """One row a layer, indexed by name."""
        import pandas as pd

        return pd.DataFrame([_row(layer) for layer in self.layers.values()]).set_index("layer")

    def compare(self, other: FeatureReport) -> pd.DataFrame:
        """Differences ``self - other`` of the layers both have, with standard errors (independent measurements)."""
        import pandas as pd

        rows = []
        for name, mine in self.layers.items():
            if name not in other.layers:
                continue
            a, b = mine.alignment(), other.layers[name].alignment(mine.power, mine.statistic)
            rows.append(
                {
                    "layer": name,
                    "nfa": a.value - b.value,
                    "nfa_standard_error": math.hypot(a.standard_error, b.standard_error),
                    "nfa_excess": a.excess - b.excess,
                    "nfa_excess_standard_error": math.hypot(a.excess_standard_error, b.excess_standard_error),
                    "effective_rank_ratio": mine.agop_spectrum.effective_rank
                    / other.layers[name].agop_spectrum.effective_rank,
                }
            )
        columns = list(rows[0]) if rows else ["layer"]
        return pd.DataFrame(rows, columns=columns).set_index("layer")

    def to_dict(self, matrices: bool = False) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings (JSON-ready once ``nan`` is allowed or replaced)."""
        return {
            "kind": "FeatureReport",
            "schema": 1,
            "summary": self.summary(),
            "layers": {name: layer.to_dict(matrices) for name, layer in self.layers.items()},
            "skipped": dict(self.skipped),
            "provenance": dict(self.provenance),
            "lazy_rich": None if self.lazy_rich is None else self.lazy_rich.to_dict(),
            "kernel_drift": None if self.kernel_drift is None else self.kernel_drift.to_dict(),
            "collapse": None if self.collapse is None else self.collapse.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FeatureReport:
        """Inverse of :meth:`to_dict`."""
        from .collapse import NeuralCollapse
        from .drift import KernelDrift, LazyRich

        parts: dict[str, Any] = {"lazy_rich": LazyRich, "kernel_drift": KernelDrift, "collapse": NeuralCollapse}
        rest = {key: None if plain.get(key) is None else kind.from_dict(plain[key]) for key, kind in parts.items()}
        layers = {name: LayerReport.from_dict(entry) for name, entry in plain["layers"].items()}
        return cls(layers, dict(plain["skipped"]), dict(plain["provenance"]), **rest)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Bars per layer: ansatz correlation, its null and its 95% interval."""
        from ..plots.features import plot_feature_report

        return plot_feature_report(self.to_dict(), ax=ax)

    def to_html(self, path: str | PathLike[str], *, image_shape: tuple[int, ...] | None = None) -> None:
        """Write the self-contained report page; ``image_shape=(c, h, w)`` draws a linear first layer as images."""
        from ..report.features import write_feature_report

        write_feature_report(self.to_dict(), path, image_shape=image_shape)

    def _repr_html_(self) -> str:
        from ..report.features import feature_report_fragment

        return feature_report_fragment(self.to_dict())


def _row(layer: LayerReport) -> dict[str, Any]:
    chosen, half = layer.alignment(), layer.nfa_half
    parts = layer.parts
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "k": layer.k,
        "d": layer.d,
        "groups": layer.groups,
        "nfa": chosen.value,
        "nfa_null": chosen.null,
        "nfa_null_sd": chosen.null_sd,
        "nfa_excess": chosen.excess,
        "nfa_standard_error": chosen.standard_error,
        "nfa_half": half.value,
        "nfa_half_null": half.null,
        "nfa_half_excess": half.excess,
        "best_power": layer.best_power,
        "centered_nfa": layer.centered_nfa,
        "centered_null": None if layer.centered is None else layer.centered.null,
        "derivative_nfa": layer.derivative_nfa,
        "nfa_cosine": layer.alignment(1.0, "cosine").value,
        **{f"nfa_{key}": None if parts is None else getattr(parts, key) for key in _SUMMANDS},
        **{key: None if parts is None else getattr(parts, key) for key in _FACTORS},
        "fact": layer.fact,
        "loss_nfa": layer.loss_nfa,
        "nfm_effective_rank": layer.nfm_spectrum.effective_rank,
        "agop_effective_rank": layer.agop_spectrum.effective_rank,
        "subspace_overlap": layer.subspace_overlap,
        "probe_error": layer.probe_error,
        "trivial": layer.trivial,
        "reason": layer.reason,
    }
