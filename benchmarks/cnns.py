"""A convolutional network of the kernel's architecture, trained without a look at test images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["FittedCNN", "fit_cnn"]

RATES = (3e-4, 1e-3, 3e-3)  # of Adam, chosen on held-out images together with the number of epochs
BATCH = 32


@dataclass(frozen=True)
class FittedCNN:
    """The network, trained on all images, and what was chosen on a fifth of them."""

    net: nn.Sequential
    rate: float
    epochs: int
    held_out_accuracy: float

    @torch.no_grad()
    def predict(self, X: Tensor) -> Tensor:
        """Labels (m,)."""
        return torch.cat([self.net(part).argmax(dim=1) for part in X.split(256)])


def build(channels: int, size: tuple[int, int], classes: int, patch_size: int, depth: int, width: int) -> nn.Sequential:
    """(Convolution without padding or bias, ReLU) depth times, flatten, linear: what ConvNTK is the limit of."""
    layers: list[nn.Module] = []
    for layer in range(depth):
        layers += [nn.Conv2d(width if layer else channels, width, patch_size, bias=False), nn.ReLU()]
    less = depth * (patch_size - 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (size[0] - less) * (size[1] - less), classes))


def fit_cnn(
    X: Tensor, y: Tensor, *, patch_size: int = 3, depth: int = 3, width: int = 32, epochs: int = 20, seed: int = 0
) -> FittedCNN:
    """Choose learning rate and epochs on a fifth of the images, then train on all of them."""
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    held, rest = order[: len(X) // 5], order[len(X) // 5 :]
    scored = []
    for rate in RATES:
        curve = _train(X[rest], y[rest], (X[held], y[held]), patch_size, depth, width, epochs, rate, seed)[1]
        best = max(range(epochs), key=lambda epoch: (curve[epoch], -epoch))
        scored.append((curve[best], rate, best + 1))
    accuracy, rate, chosen = max(scored)
    # As many steps, not as many epochs: all images are a quarter more than four fifths of them.
    net, _ = _train(X, y, None, patch_size, depth, width, max(1, round(0.8 * chosen)), rate, seed)
    return FittedCNN(net, rate, chosen, accuracy)


def _train(
    X: Tensor, y: Tensor, held: tuple[Tensor, Tensor] | None, patch_size: int, depth: int, width: int, epochs: int,
    rate: float, seed: int,
) -> tuple[nn.Sequential, list[float]]:  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build(X.shape[1], (X.shape[2], X.shape[3]), int(y.max()) + 1, patch_size, depth, width)
        optimizer = torch.optim.Adam(net.parameters(), lr=rate)
        curve = []
        for _ in range(epochs):
            for rows in torch.randperm(len(X)).split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
                optimizer.step()
            if held is not None:
                with torch.no_grad():
                    right = sum(
                        int((net(x).argmax(1) == t).sum())
                        for x, t in zip(held[0].split(256), held[1].split(256), strict=True)
                    )
                curve.append(right / len(held[1]))
    return net.eval(), curve
