r"""
A star somewhere in noise
=========================

When does it pay to learn one metric for all patches of an image? When what matters is small, anywhere, and the rest is
noise. Fifty images of noise, half of them with a small star in two of three colours: a fixed convolutional kernel, a
convolutional recursive feature machine (ConvRFM) after one step, and a CNN of the same architecture.

The recipe is that of the public code of Beaglehole, Radhakrishnan, Pandit and Belkin (`arXiv:2309.00570
<https://arxiv.org/abs/2309.00570>`_): patches of 11 x 11, one layer, ridge 1e-3, one step. They report 77.95% for the
kernel and 94.83% after the step.
"""

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

from featlearn import ConvRFMClassifier
from featlearn.datasets import stars_in_noise

recipe = {"patch_size": 11, "depth": 1, "alpha": 1e-3, "agop_images": 20, "selection": None, "random_state": 0}


def trained_cnn(X, y, width=64, epochs=40):
    """One convolution, ReLU, linear: the network whose infinitely wide limit the kernel is."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, width, 11, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(width * 22 * 22, 2)
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
            optimizer.step()
    return net


# %%
# Three draws of the data
# -----------------------

rows = []
for seed in range(3):
    train, test = stars_in_noise(50, random_state=seed), stars_in_noise(500, random_state=100 + seed)
    fixed = ConvRFMClassifier(**recipe, max_iter=0).fit(train.X, train.y)
    learned = ConvRFMClassifier(**recipe, max_iter=1).fit(train.X, train.y)
    net = trained_cnn(train.X, train.y)
    rows.append(
        {
            "draw": seed,
            "fixed kernel": fixed.score(test.X, test.y),
            "ConvRFM": learned.score(test.X, test.y),
            "CNN": float((net(test.X).argmax(1) == test.y).double().mean()),
        }
    )
print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))

# %%
# What was learned
# ----------------
# The leading direction is a blob as large as a star in the first two colours, and nearly nothing in the third, which is
# noise in both classes.

leading = learned.directions_[0]
print("energy of the leading direction in each colour:", leading.square().sum(dim=(1, 2)).numpy().round(3))
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), layout="constrained")
for ax, patch, name in zip(axes, leading, ("red", "green", "blue"), strict=True):
    limit = float(leading.abs().max())
    ax.imshow(patch, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set(title=name, xticks=[], yticks=[])
plt.show()

# %%
# Where it looks
# --------------
# The size of the predictor's gradient at each pixel, on images that have a star, knows that the border matters little;
# the answer of the leading direction finds the star.

shown = (test.y == 1).nonzero()[:4, 0]
learned.plot_saliency(test.X[shown])
plt.show()

saliency, inside = learned.saliency(test.X[shown]), test.informative[shown]
print(f"mean saliency on the star over that elsewhere: {saliency[inside].mean() / saliency[~inside].mean():.2f}")

# %%
# One step is the recipe. What do more do?
# ----------------------------------------

steps = [ConvRFMClassifier(**recipe, max_iter=t).fit(train.X, train.y).score(test.X, test.y) for t in range(4)]
print("test accuracy after 0, 1, 2, 3 steps:", " ".join(f"{accuracy:.3f}" for accuracy in steps))
