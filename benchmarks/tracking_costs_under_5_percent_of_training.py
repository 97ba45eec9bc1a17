"""A tracker that measures every 100 steps (one probe, 512 samples) against the training loop it watches.

An MLP of 5 x 256 on inputs of MNIST's size, SGD with momentum, batches of 128 from a DataLoader. Two trackers: one that
may take as long as it needs, and one with a budget of 5%.
"""

import time

import torch
from measuring import report
from networks import noise, perceptron
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from featlearn import FeatureTracker

MOST = 0.05
STEPS = 1000


def train(budget: float | None, tracked: bool) -> tuple[float, float, int]:
    """Seconds of the loop, seconds of measuring, and number of measurements."""
    net = perceptron()
    x = noise(128 * STEPS // 10, 784)
    y = torch.arange(len(x)) % 10
    loader = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    tracker = None
    if tracked:
        tracker = FeatureTracker(net, noise(512, 784, seed=2).split(128), every=100, probes=1, budget=budget)
    start, steps = time.perf_counter(), 0
    first = 0.0 if tracker is None else tracker.seconds
    while steps < STEPS:
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
            steps += 1
            if tracker is not None:
                tracker.step()
    seconds = time.perf_counter() - start
    if tracker is None:
        return seconds, 0.0, 0
    return seconds, tracker.seconds - first, len(tracker.history) - 1


def main() -> None:
    train(None, True)  # warm-up
    results = {}
    for name, tracked, budget in (("untracked", False, None), ("tracked", True, None), ("budget of 5%", True, MOST)):
        runs = [train(budget, tracked) for _ in range(3)]
        loop, measuring, count = min(runs)
        results[name] = {"loop": loop, "measuring": measuring, "measurements": count, "share": measuring / loop}
    report(__file__, results["tracked"]["share"] <= MOST, most=MOST, seconds=results)


if __name__ == "__main__":
    main()
