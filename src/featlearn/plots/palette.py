"""Colours of every figure, on paper and on the page: told apart by colour-blind readers, on white and on near-black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIGNMENT", "CENTERED", "COMPARISON", "FAINT", "INK", "MUTED", "diverging", "layer_colors"]

# Okabe and Ito's palette, which stays distinct under the three common kinds of colour blindness.
ALIGNMENT = "#0072b2"
CENTERED = "#b25000"  # their vermillion, darker: contrast 4.5 on white
COMPARISON = "#6b7280"
INK = "#1f2933"
MUTED = "#5f6b7a"
FAINT = "#c9d1da"

# Depth of a layer: indigo, magenta, orange. All three keep a contrast of 3 on white and on near-black.
_DEPTH = np.array([[0x4F, 0x5B, 0xD5], [0xC2, 0x41, 0x8F], [0xD0, 0x6C, 0x12]], dtype=np.float64)

# ColorBrewer's RdBu, blue for negative: its two arms differ for colour-blind readers, zero is nearly white.
_DIVERGING = np.array(
    [[5, 48, 97], [67, 147, 195], [209, 229, 240], [247, 247, 247], [253, 219, 199], [214, 96, 77], [103, 0, 31]],
    dtype=np.float64,
)


def _interpolate(stops: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.uint8]:
    places = np.linspace(0.0, 1.0, len(stops))
    channels = [np.interp(at, places, stops[:, channel]) for channel in range(3)]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)


def layer_colors(count: int) -> list[str]:
    """One colour a layer, from the first (indigo) to the last (orange), as ``#rrggbb``."""
    rows = _interpolate(_DEPTH, np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(count))
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in rows]


def diverging(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values in [-1, 1], any shape, to red-green-blue bytes: blue below zero, white at zero, red above."""
    return _interpolate(_DIVERGING, (np.clip(values, -1.0, 1.0) + 1.0) / 2.0)
