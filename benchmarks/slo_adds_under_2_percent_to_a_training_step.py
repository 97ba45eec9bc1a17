"""A training step of ResNet-18 under SLO against the same step of the optimiser inside: 32 images of 32 x 32.

Two bases: SGD with momentum, whose gradients are scaled, under 2% of the step; and Adam, whose updates are, under 5%.
The groups of ``slo_groups`` are one a weight, where a plain optimiser has one for all: that is part of the price. What
is timed apart is everything after the backward pass, since it would drown in the passes' own scatter; the shares are of
forward, backward and plain step together, in CPU time of one thread, minima of 5 rounds of 10 steps.
"""

import torch
from measuring import interleaved, report
from networks import noise, resnet18
from torch import nn

from featlearn import SLO, slo_groups

MOST = {"SGD": 0.02, "Adam": 0.05}
STEPS = 10


def contestants() -> dict[str, torch.optim.Optimizer]:
    """Optimisers, plain and limited, each on a network of its own with gradients in place."""
    sgd = {"lr": 0.01, "momentum": 0.9}
    plain = [resnet18(seed=0).train() for _ in range(2)]
    limited = [resnet18(seed=0).train() for _ in range(2)]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "SGD": torch.optim.SGD(plain[0].parameters(), **sgd),
        "SLO around SGD": SLO(torch.optim.SGD(slo_groups(limited[0], "0"), **sgd)),
        "Adam": torch.optim.Adam(plain[1].parameters(), lr=1e-4),
        "SLO around Adam": SLO(torch.optim.Adam(slo_groups(limited[1], "0"), lr=1e-4)),
    }
    for net in (*plain, *limited):
        passes(net)
    return optimizers


def passes(net: nn.Module) -> None:
    """Forward and backward pass of one batch."""
    nn.functional.cross_entropy(net(noise(32, 3, 32, 32)), torch.arange(32) % 10).backward()


def main() -> None:
    torch.set_num_threads(1)
    net = resnet18().train()

    def steps(optimizer: torch.optim.Optimizer) -> None:
        for _ in range(STEPS):
            optimizer.step()

    runs = {name: (lambda of=optimizer: steps(of)) for name, optimizer in contestants().items()}
    times = interleaved({**runs, "forward and backward": lambda: passes(net)})
    seconds = {name: time["cpu"] / (STEPS if name in runs else 1) for name, time in times.items()}
    shares = {
        base: (seconds[f"SLO around {base}"] - seconds[base]) / (seconds["forward and backward"] + seconds[base])
        for base in MOST
    }
    holds = all(shares[base] <= most for base, most in MOST.items())
    report(__file__, holds, most=MOST, share_of_the_step=shares, cpu_seconds=seconds, steps_of_each=STEPS)


if __name__ == "__main__":
    main()
