r"""
Where does neural collapse come from?
=====================================

Late in training, the last features of a classifier shrink to one point a class, and these points spread out like the
corners of a simplex: *neural collapse*. A deep recursive feature machine shows the same without any training by
gradients. Each of its layers fits a kernel predictor, takes the average gradient outer product (AGOP) of it as a metric
M, and passes :math:`\Phi(M^{1/2} x)` on, with random features :math:`\Phi`. So one can look at the two halves of a
layer separately: which of them collapses the classes?

Beaglehole and others asked this in `arXiv:2402.13728 <https://arxiv.org/abs/2402.13728>`_. The data, 1,000 images of
clothes to learn from and 1,000 others, come with featlearn.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from featlearn.datasets import load_fashion_mnist
from featlearn.machines.deep_rfm import deep_rfm

BLUE, ORANGE, GREEN, INK = "#0072b2", "#b25000", "#009e73", "#1f2933"

train, test = load_fashion_mnist("train", n=1000), load_fashion_mnist("test")
data = {"X": train.normalized(), "y": train.labels, "X_test": test.normalized(), "y_test": test.labels}

# %%
# Six layers
# ----------
# NC1 is the scatter of the training rows within classes over that between them; NC2 the distance of the class means
# from a simplex, as the mean squared error of the cosines between them. Both are 0 under full collapse. Columns without
# a suffix are of the rows that enter a layer, ``metric`` of those after :math:`M^{1/2}`, ``features`` of those after
# the random features.

relu = deep_rfm(**data, features="relu")
print(relu.frame().to_string(float_format="{:.3g}".format))

# %%
# The same with cosines instead of a ReLU, of weights that are drawn from a Cauchy distribution.

cosine = deep_rfm(**data, features="cos")
print(cosine.frame().to_string(float_format="{:.3g}".format))

figure, axes = plt.subplots(1, 2, figsize=(11, 4.3), layout="constrained", sharey=True)
for ax, result in zip(axes, (relu, cosine), strict=True):
    result.plot(ax=ax)
plt.show()

# %%
# Is it learned, or would any stack do it?
# ----------------------------------------
# Two controls. First, layers of random features alone, without a metric. Second, labels shuffled over the images: the
# predictor fits them as exactly, and its AGOP is a metric of the same kind, but there is nothing that images of a class
# have in common.


def scatter(rows, labels):
    """NC1."""
    means = torch.stack([rows[labels == label].mean(dim=0) for label in range(10)])
    within = (rows - means[labels]).square().sum(dim=1).mean()
    return float(within / (means - means.mean(dim=0)).square().sum(dim=1).mean())


rows, plain = data["X"].flatten(1), []
rows = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp_min(1e-6)
generator = torch.Generator().manual_seed(0)
for _ in range(6):
    rows = rows / rows.norm(dim=1, keepdim=True)
    plain.append(scatter(rows, train.labels))
    rows = (rows @ (2 * torch.rand(rows.shape[1], 512, generator=generator) - 1)).relu()

order = torch.randperm(1000, generator=generator)
shuffled = deep_rfm(data["X"], train.labels[order], features="relu")
table = pd.DataFrame(
    {
        "metric and ReLU features": relu.frame()["nc1"],
        "ReLU features alone": np.array(plain),
        "shuffled labels": shuffled.frame()["nc1"],
    }
)
print(table.to_string(float_format="{:.3g}".format))

figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
for name, style in zip(table, ("o-", "s-", "^-"), strict=True):
    axes[0].semilogy(table.index, table[name], style, markersize=5, label=name)
axes[0].set_title("NC1 of the rows that enter", fontsize=10)
for result, name, color in ((relu, "relu", BLUE), (cosine, "cos", ORANGE)):
    frame = result.frame()
    axes[1].plot(frame.index, frame["test_accuracy"], "o-", color=color, label=name)
axes[1].set_title("accuracy on 1,000 other images", fontsize=10)
axes[1].set_ylim(0.6, 0.9)
for ax in axes:
    ax.set_xlabel("layer")
    ax.legend(fontsize=8, frameon=False)
plt.show()

# %%
# What to see
# -----------
# - The scatter falls where the metric is applied (``nc1`` to ``nc1_metric``), and random features undo a part of it:
#   the collapse is made by the metric. ReLU features alone spread the classes a little more with every layer.
# - Rows with shuffled labels collapse as well, from a scatter 70 times larger. And the accuracy on other images falls
#   from layer to layer. Collapse says that the training labels were fitted, not that anything was understood.
