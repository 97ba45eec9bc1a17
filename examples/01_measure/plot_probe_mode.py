r"""
Random probes: cost and error
=============================

Exactly, the tangent kernel of a network with :math:`C` outputs takes :math:`C` backward passes a batch. Random probes
take as many passes as one likes: with signs :math:`v_i \in \{-1, 1\}^C`, drawn anew for every sample, one backward pass
of :math:`\sum_i \langle v_i, f(x_i) \rangle` gives :math:`g_i = J_i^\top v_i` in every layer, and
:math:`\mathrm{E}\, g_i g_i^\top = J_i^\top J_i`. This page compares both on a network with 200 outputs.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from featlearn import measure_features
from featlearn.datasets import load_fashion_mnist

BLUE, ORANGE, INK = "#0072b2", "#b25000", "#1f2933"
MEAN, STD = 0.286, 0.353

# %%
# A network with many outputs
# ---------------------------
# It predicts 200 numbers of each image, fixed random features of the lower half, from the upper half.

train, test = load_fashion_mnist("train"), load_fashion_mnist("test", n=500)
random = torch.randn(14 * 28, 200, generator=torch.Generator().manual_seed(1)) / 20


def halves(data):
    images = data.normalized(MEAN, STD)
    return images[:, :, :14], torch.tanh(images[:, :, 14:].flatten(1) @ random)


torch.manual_seed(0)
net = nn.Sequential(
    *[nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
    *[nn.Linear(8 * 7 * 14, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 200)],
)
X, Y = halves(train)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for _ in range(3):
    for rows in torch.randperm(len(X)).split(64):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(X[rows]), Y[rows])
        loss.backward()
        optimizer.step()
print(f"loss of the last batch: {loss.item():.3f}")

batches = list(halves(test)[0].split(50))

# %%
# Exact, then with probes
# -----------------------
# Every number of probes is tried with three seeds. Three errors are noted in each layer: the relative Frobenius error
# of the AGOP, the error of the ansatz at power 1, from which featlearn removes the bias that probe noise has, and that
# of the ansatz at power 1/2, where it does not.

start = time.perf_counter()
exact = measure_features(net, batches)
seconds = {"exact": time.perf_counter() - start}
layers = [name for name, layer in exact.layers.items() if not layer.trivial]
print(f"exact: {exact.provenance['backward_passes'] // len(batches)} backward passes a batch")


def compare(report, probes):
    """One row a layer."""
    rows = []
    for name in layers:
        mine, truth = report[name], exact[name]
        rows.append(
            {
                "probes": probes,
                "layer": name,
                "AGOP error": float((mine.agop - truth.agop).norm() / truth.agop.norm()),
                "estimated": mine.probe_error,
                "NFA error": mine.nfa - truth.nfa,
                "NFA error bar": mine.nfa_standard_error,
                "NFA error at 1/2": mine.nfa_half.value - truth.nfa_half.value,
            }
        )
    return rows


found = []
for probes in (1, 2, 4, 8, 16):
    start = time.perf_counter()
    for seed in range(3):
        found += compare(measure_features(net, batches, probes=probes, random_state=seed), probes)
    seconds[probes] = (time.perf_counter() - start) / 3
found = pd.DataFrame(found)
print(f"exact NFA: {', '.join(f'{name} {exact[name].nfa:.3f}' for name in layers)}")
print(found.groupby(["layer", "probes"], sort=False).mean().round(4).to_string())
print("seconds: " + ", ".join(f"{probes}: {value:.1f}" for probes, value in seconds.items()))

# %%
# ``estimated`` is what the report says of its own AGOP error, without knowing the truth (it needs two probes).

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for name, color in zip(layers, (BLUE, "#009e73", ORANGE), strict=True):
    mine = found[found["layer"] == name]
    mean = mine.groupby("probes").mean(numeric_only=True)
    axes[0].loglog(mean.index, mean["AGOP error"], "o-", color=color, label=f"layer {name}")
    axes[0].loglog(mean.index, mean["estimated"], "x", color=color, markersize=7)
    axes[1].plot(mine["probes"], mine["NFA error"], "o", color=color, alpha=0.7, markersize=5)
    axes[2].plot(mine["probes"], mine["NFA error at 1/2"], "o", color=color, alpha=0.7, markersize=5)
slope = found.groupby("probes")["AGOP error"].mean()
axes[0].loglog(slope.index, slope.iloc[0] / np.sqrt(slope.index), ":", color=INK, label="one over square root")
axes[0].plot([], [], "x", color=INK, label="as estimated by the report")
axes[0].set_title("relative error of the AGOP", fontsize=10)
axes[1].set_title("error of the NFA at power 1", fontsize=10)
axes[2].set_title("error of the NFA at power 1/2 (plug-in)", fontsize=10)
for ax in axes:
    ax.set_xscale("log", base=2)
    ax.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    ax.set_xlabel("probes, of 200 outputs")
for ax in axes[1:]:
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_ylim(-0.03, 0.03)
axes[0].set_ylim(bottom=0.004)
axes[0].legend(fontsize=7, frameon=False, loc="lower left")
plt.show()

# %%
# Let featlearn choose
# --------------------
# ``probes="auto"`` looks at the first batch and takes as many probes as give every AGOP a relative error of 0.03, or
# goes exact where that is no more expensive.

report = measure_features(net, batches, probes="auto")
print(f"auto: {report.provenance['probes']} probes")
print(pd.DataFrame(compare(report, report.provenance["probes"])).round(4).to_string(index=False))

# %%
# What to take from this
# ----------------------
# - The error of the AGOP falls like one over the square root of the number of probes, and of the number of samples. Its
#   size depends on the layer: it was .05 in the first layer with one probe, and .2 in the last, whose gradients spread
#   over many directions.
# - At power 1 even one probe gave the ansatz to better than .02, and four to better than .01: scattered about zero, and
#   of the size of the error bar, which covers probe noise and the choice of images alike.
# - At power 1/2 one probe is *biased*: .02 too low in the last layer, with every seed. Noise adds small eigenvalues to
#   the AGOP, and the square root makes them large. The report marks such values with ``biased``. Where powers other
#   than 1, spectra or effective ranks matter, take more probes or the exact mode.
# - With few outputs (ten, say) the exact mode is cheap, and there is no reason for probes outside of a training loop.
#   If the outputs are many but the last linear layer has fewer inputs, the exact mode needs one pass an *input* only;
#   it finds that out by itself.
