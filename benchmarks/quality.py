"""What a frozen first layer is worth to other models; ridge and bandwidth are chosen on validation data."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeClassifier
from tasks import Data
from torch import Tensor, nn

from featlearn.kernels import LaplaceKernel, Metric
from featlearn.kernels.bandwidth import median_bandwidth

PROBE_ALPHAS = (1e-3, 1e-2, 1e-1, 1.0)  # of the linear classifier, per sample, features standardised
KERNEL_ROWS = 1000  # training images of the kernel machine
KERNEL_ALPHAS, BANDWIDTHS = (1e-3, 1e-2, 1e-1), (0.5, 1.0, 2.0)  # bandwidths in medians of the distance


@torch.no_grad()
def linear_probe(net: nn.Sequential, data: Data) -> float:
    """Test error of a ridge classifier on the first layer's activations (of a CNN: means of 2 x 2 places)."""

    def features(X: Tensor) -> Tensor:
        active = net[:2](X)
        return (nn.functional.avg_pool2d(active, 2) if active.dim() == 4 else active).flatten(1)

    std, mean = torch.std_mean(features(data.X), dim=0)
    train, val, test = (((features(X) - mean) / (std + 1e-6)).numpy() for X in (data.X, data.X_val, data.X_test))
    scored = []
    for alpha in PROBE_ALPHAS:
        model = RidgeClassifier(alpha * len(train), solver="cholesky").fit(train, data.y.numpy())
        wrong = 1 - model.score(val, data.y_val.numpy())
        scored.append((wrong, 1 - model.score(test, data.y_test.numpy())))
    return min(scored, key=lambda pair: pair[0])[1]


def kernel_machine(weight: Tensor | None, data: Data, classes: int) -> float:
    """Test error of ridge regression with a Laplace kernel of metric W^T W; ridge and bandwidth by validation."""
    X, y = data.X[:KERNEL_ROWS], data.y[:KERNEL_ROWS]
    targets = (nn.functional.one_hot(y, classes) if classes else y).float().numpy()
    metric = Metric(LaplaceKernel(1.0), None if weight is None else weight.mT)
    median = median_bandwidth(metric.project(X[:500]))

    def error(predicted: Any, truth: Tensor) -> float:
        predicted = torch.as_tensor(predicted)
        if classes:
            return float((predicted.argmax(1) != truth).double().mean())
        return float((predicted - truth).square().mean())

    scored = []
    for multiple in BANDWIDTHS:
        kernel = metric.with_bandwidth(multiple * median)
        K, K_val, K_test = (kernel.matrix(rows, X).numpy() for rows in (X, data.X_val, data.X_test))
        for alpha in KERNEL_ALPHAS:
            model = KernelRidge(alpha=alpha, kernel="precomputed").fit(K, targets)
            scored.append((error(model.predict(K_val), data.y_val), model, K_test))
    _, model, K_test = min(scored, key=lambda entry: entry[0])
    return error(model.predict(K_test), data.y_test)
