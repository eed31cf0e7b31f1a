"""What a run's log says of each layer: norms of its gradients, and sizes of the hidden states that it hands on."""

from typing import Any

import torch
from torch import Tensor

from hierlandmark.config import Mode
from hierlandmark.layout import Kind, Layout
from hierlandmark.model.binding import decoder_of
from hierlandmark.model.core import LandmarkCore
from hierlandmark.train.episodes import Batch


def layer_norms(core: LandmarkCore) -> dict[str, float]:
    """Gradient norm of each layer's adapters, and of the rows."""
    keys, grads = [], []
    for name, parameter in core.named_parameters():
        if parameter.grad is not None:
            parts = name.split(".")
            keys.append(parts[parts.index("layers") + 1] if "layers" in parts else "rows")
            grads.append(parameter.grad)
    if not grads:
        return {}
    # one wait for the device, however many tensors
    squares = torch.stack([norm.double() for norm in torch._foreach_norm(grads)]).square().tolist()
    sums: dict[str, float] = {}
    for key, square in zip(keys, squares, strict=True):
        sums[key] = sums.get(key, 0.0) + square
    return {key: round(value**0.5, 5) for key, value in sums.items()}


@torch.no_grad()
def hidden_norms(core: LandmarkCore, batch: Batch, mode: Mode) -> dict[str, list[float]]:
    """Root mean square and largest size of each layer's output, over the first text of a batch, padding left out."""
    layers = list(decoder_of(core.base).layers)
    device = core.rows.device
    layout = Layout(batch.layout.config, batch.layout.kinds[:1], batch.layout.reads[:1])
    real = torch.from_numpy(layout.kinds.reshape(1, -1) != Kind.PAD).to(device)
    seen: list[Tensor] = []

    def look(module: Any, args: Any, output: Any) -> None:
        state = (output[0] if isinstance(output, tuple) else output)[real].float()
        seen.append(torch.stack((state.square().mean().sqrt(), state.abs().max())))

    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        # compiled layers would be compiled anew for a hook
        with (
            torch.compiler.set_stance("force_eager"),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"),
        ):
            ids = torch.from_numpy(batch.ids[:1]).to(device)
            positions = None if batch.positions is None else batch.positions[:1]
            core.hidden_dense(ids, layout, mode, positions=positions, recency=batch.recency)
    finally:
        for hook in hooks:
            hook.remove()
    return {str(i): [round(value, 4) for value in sizes] for i, sizes in enumerate(torch.stack(seen).tolist())}
