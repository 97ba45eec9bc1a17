"""One pass over all 20 convolutions of a ResNet-18 against vmap(jacrev) over the unfolded patches of one at a time.

2 images of 32 x 32, 10 outputs. The contestant is what a reader of the definition would write; both answers agree. The
claim compares what each needs before any d x d matrix: weight and tangent kernel here, Jacobians there. With all d x d
matrices formed (d up to 4,608; the correlations never need them), both spend most of the rest writing those.
"""

import torch
from measuring import interleaved, report
from networks import noise, resnet18
from torch import Tensor, nn

from featlearn import agop_of_module

LEAST = 10.0


def patch_jacobians(model: nn.Module, module: nn.Conv2d, x: Tensor) -> Tensor:
    """Gradient of every output with respect to every patch, (n, C, d, P)."""
    caught: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    options = {"kernel_size": module.kernel_size, "stride": module.stride, "padding": module.padding}
    patches = nn.functional.unfold(caught[0], **options)  # (n, d, P)
    weight = module.weight.flatten(1)

    def outputs(image: Tensor, patch: Tensor) -> Tensor:
        def replaced(m: nn.Module, args: object, output: Tensor) -> Tensor:
            return (weight @ patch).reshape(output.shape)

        handle = module.register_forward_hook(replaced)
        try:
            return model(image.unsqueeze(0))[0]
        finally:
            handle.remove()

    return torch.func.vmap(torch.func.jacrev(outputs, argnums=1))(x, patches)


def patch_agop_by_jacobians(model: nn.Module, module: nn.Conv2d, x: Tensor) -> Tensor:
    """Mean over samples, sum over outputs and positions of the gradient outer products of every patch."""
    rows = patch_jacobians(model, module, x).permute(2, 0, 1, 3).flatten(1)
    return rows @ rows.mT / len(x)


def main() -> None:
    model, x = resnet18().requires_grad_(False), noise(2, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # vmap refuses in-place operations on what it did not batch
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}

    def ours() -> dict[str, Tensor]:
        return {name: layer.agop() for name, layer in agop_of_module(model, [x], layers=list(convolutions)).items()}

    def theirs() -> dict[str, Tensor]:
        return {name: patch_agop_by_jacobians(model, module, x) for name, module in convolutions.items()}

    def jacobians() -> None:
        for module in convolutions.values():
            patch_jacobians(model, module, x)

    expected = theirs()
    for name, agop in ours().items():
        error = float((agop - expected[name]).norm() / expected[name].norm())
        assert error < 1e-5, (name, error)
    del expected
    times = interleaved(
        {
            "agop_of_module": lambda: agop_of_module(model, [x], layers=list(convolutions)),
            "vmap(jacrev)": jacobians,
            "agop_of_module, d x d formed": ours,
            "vmap(jacrev), d x d formed": theirs,
        },
        repeats=3,
    )
    wall = {name: entry["wall"] for name, entry in times.items()}
    speedup = wall["vmap(jacrev)"] / wall["agop_of_module"]
    formed = wall["vmap(jacrev), d x d formed"] / wall["agop_of_module, d x d formed"]
    report(
        __file__,
        speedup >= LEAST,
        least=LEAST,
        layers=len(convolutions),
        seconds=times,
        speedup=speedup,
        speedup_with_d_x_d_formed=formed,
    )


if __name__ == "__main__":
    main()
