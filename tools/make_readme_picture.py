"""Draw the README's picture: chance and correlation in every convolution of a fresh and of a trained ResNet-20.

FEATLEARN_DATA=folder python tools/make_readme_picture.py
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from featlearn import FeatureReport, measure_features
from featlearn.datasets import CIFAR_MEAN, CIFAR_STD, CifarResNet, load_cifar10_jpeg, load_cifar_resnet

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "resnet20.png"
POWER = 0.5
BLUE, INK, FAINT, GRID = "#0072b2", "#1f2933", "#c9d1da", "#e8ecf0"


def draw(ax: Axes, report: FeatureReport, title: str) -> None:
    """One row a convolution: chance with its spread, and the correlation measured."""
    layers = {name: layer.alignment(POWER) for name, layer in report.layers.items() if layer.patch_shape}
    for place, found in enumerate(layers.values()):
        ax.barh(place, 4 * found.null_sd, left=found.null - 2 * found.null_sd, height=0.62, color=FAINT)
        ax.plot([found.null, found.value], [place, place], color=BLUE, lw=2.2, alpha=0.45, solid_capstyle="butt")
        ax.plot([found.null] * 2, [place - 0.31, place + 0.31], color=INK, lw=1.4)
        ax.plot(found.value, place, "o", color=BLUE, markersize=5)
    ax.set_title(title, fontsize=10.5, loc="left")
    ax.set_yticks(range(len(layers)), list(layers), fontsize=8)
    ax.set_ylim(len(layers) - 0.4, -0.6)
    ax.set_xlabel(r"correlation of $W^\top W$ with the square root of the AGOP", fontsize=9)
    ax.grid(axis="y", color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Measure both networks on 1,000 images and write the picture."""
    batches = load_cifar10_jpeg("test", n=1000).batches(50, mean=CIFAR_MEAN, std=CIFAR_STD)
    networks = {"fresh random weights": CifarResNet(20).eval(), "trained by others": load_cifar_resnet("resnet20")}
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.7), sharex=True, sharey=True, layout="constrained")
    for ax, (title, network) in zip(axes, networks.items(), strict=True):
        draw(ax, measure_features(network, batches), f"ResNet-20, {title}")
    axes[0].set_xlim(math.floor(10 * axes[0].get_xlim()[0]) / 10, 1.0)
    handles = [
        plt.Line2D([], [], marker="o", ls="", color=BLUE, label="measured"),
        plt.Line2D([], [], marker="|", ls="", color=INK, markersize=9, markeredgewidth=1.4, label="chance"),
        plt.Rectangle((0, 0), 1, 1, color=FAINT, label="chance, ± 2 sd"),
    ]
    figure.legend(handles=handles, fontsize=9, frameon=False, ncols=3, loc="outside lower center")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
