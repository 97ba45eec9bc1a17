"""What the balance of layers returns: one frozen record a layer or pair, one result a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from .undo import KeptParameters

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BalanceReport", "LayerBalance", "LayerScale", "PairBalance"]


@dataclass(frozen=True, kw_only=True)
class LayerScale:
    r"""How one layer was rescaled.

    Attributes
    ----------
    name : str
        Layer.
    factor, bias_factor : float
        ``s_l`` of the weight and ``s_1 ... s_l`` of the bias.
    norm_before, norm_after : float
        Frobenius norm of the weight.
    speed_gain : float
        ``s_l ** -2``, by which ``||dL/dW|| / ||W||`` is multiplied.
    speed_before, speed_after : float or None
        ``rate ||dL/dW|| / ||W||`` as measured, with a loss.
    rate : float
        Learning rate, 1 unless given.
    """

    name: str
    factor: float
    bias_factor: float
    norm_before: float
    norm_after: float
    speed_gain: float
    speed_before: float | None = None
    speed_after: float | None = None
    rate: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerBalance:
    """What :func:`layer_balance` did.

    Attributes
    ----------
    tilt : float
        Above zero upstream, zero balanced, below zero downstream.
    layers : mapping of str to LayerScale
        From the first layer of the chain to the last.
    output_change : float or None
        Relative difference of the outputs before and after, with a batch.
    order : "execution" or "registration"
        Where the order of the layers comes from.
    """

    tilt: float
    layers: Mapping[str, LayerScale]
    output_change: float | None
    order: str
    kept: KeptParameters | None = field(default=None, repr=False)

    @property
    def factors(self) -> dict[str, float]:
        """``s_l`` by layer; their product is 1."""
        return {name: layer.factor for name, layer in self.layers.items()}

    def undo(self) -> None:
        """Put weights and biases back bitwise as they were before, whatever has happened to them since."""
        if self.kept is not None:
            self.kept.restore()

    def frame(self) -> pd.DataFrame:
        """One row a layer, indexed by name."""
        import pandas as pd

        return pd.DataFrame([asdict(layer) for layer in self.layers.values()]).set_index("name")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries, JSON-ready; the way back is not part of it."""
        return {
            "kind": "LayerBalance",
            "schema": 1,
            "tilt": self.tilt,
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "output_change": self.output_change,
            "order": self.order,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LayerBalance:
        """Inverse of :meth:`to_dict`; :meth:`undo` of the copy does nothing."""
        values = {key: value for key, value in plain.items() if key not in ("kind", "schema", "layers")}
        return cls(layers={name: LayerScale(**layer) for name, layer in plain["layers"].items()}, **values)

    def plot(self, ax: Any = None) -> Any:
        """Relative speed of every layer before and after; without a loss, the norms.

        Parameters
        ----------
        ax : Axes, optional
            By default a new figure.

        Returns
        -------
        Axes
        """
        from ..plots.balance import plot_layer_balance

        return plot_layer_balance(self.to_dict(), ax)

    def _repr_html_(self) -> str:
        shown = self.frame().dropna(axis="columns", how="all")
        caption = f"Tilt {self.tilt:g}, layers in order of {self.order}."
        if self.output_change is not None:
            caption += f" Outputs changed by {self.output_change:.1e}, relative."
        return f"<p>{escape(caption)}</p>{shown.to_html(float_format=lambda value: format(value, '.3g'))}"


@dataclass(frozen=True, kw_only=True)
class PairBalance:
    r"""Balance of two layers that follow one another.

    Attributes
    ----------
    first, second : str
        Layers.
    balance : float
        ``(||W_2||^2 / eta_2 - ||W_1||^2 / eta_1)`` over the sum of both, in [-1, 1]: above zero the second is larger
        and the first learns faster, relative to its size (upstream). nan when both weights are zero.
    matrix : float or None
        ``||W_2^T W_2 / eta_2 - W_1 W_1^T / eta_1||_F`` over the sum of both norms, in [0, 1]; None where undefined.
    conserved : bool or None
        Whether a scale moves from the first to the second without changing the outputs on the batch, which is what
        makes the difference of squared norms a constant of gradient flow (without biases in the first layer). None
        without a batch.
    reason : str or None
        Why ``matrix`` is undefined.
    """

    first: str
    second: str
    balance: float
    matrix: float | None
    conserved: bool | None
    reason: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class BalanceReport:
    """Balance of every two adjacent layers.

    Attributes
    ----------
    pairs : tuple of PairBalance
        From the input to the output.
    norms : mapping of str to float
        Frobenius norm of each layer's weight.
    rates : mapping of str to float
        Learning rates the squared norms were divided by.
    order : "execution" or "registration"
        Where the order of the layers comes from.
    """

    pairs: tuple[PairBalance, ...]
    norms: Mapping[str, float]
    rates: Mapping[str, float]
    order: str

    def frame(self) -> pd.DataFrame:
        """One row a pair, indexed by the names of both."""
        import pandas as pd

        return pd.DataFrame([asdict(pair) for pair in self.pairs]).set_index(["first", "second"])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries (JSON-ready once ``nan`` is allowed or replaced)."""
        return {
            "kind": "BalanceReport",
            "schema": 1,
            "pairs": [asdict(pair) for pair in self.pairs],
            "norms": dict(self.norms),
            "rates": dict(self.rates),
            "order": self.order,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> BalanceReport:
        """Inverse of :meth:`to_dict`."""
        pairs = tuple(PairBalance(**pair) for pair in plain["pairs"])
        return cls(pairs=pairs, norms=dict(plain["norms"]), rates=dict(plain["rates"]), order=plain["order"])

    def plot(self, ax: Any = None) -> Any:
        """Balance of every pair, and the matrix version where it is defined.

        Parameters
        ----------
        ax : Axes, optional
            By default a new figure.

        Returns
        -------
        Axes
        """
        from ..plots.balance import plot_balance

        return plot_balance(self.to_dict(), ax)

    def _repr_html_(self) -> str:
        shown = self.frame().dropna(axis="columns", how="all")
        caption = f"Layers in order of {self.order}; above 0 the earlier layer learns faster relative to its size."
        return f"<p>{escape(caption)}</p>{shown.to_html(float_format=lambda value: format(value, '.3g'))}"
