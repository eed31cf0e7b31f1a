"""Checkpoints as safetensors: trained tensors and the optimizer's moments."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hierlandmark.model.core import LandmarkCore

_MOMENTS = ("exp_avg", "exp_avg_sq")


def trained_tensors(core: LandmarkCore) -> dict[str, torch.nn.Parameter]:
    """Trained parameters by the names that peft gives an adapter's tensors; the two rows as `landmark_rows`."""
    out = {}
    for name, parameter in core.named_parameters():
        if parameter.requires_grad:
            key = "landmark_rows" if name == "rows" else name.removeprefix("base.").replace(".default.", ".")
            out[key] = parameter
    return out


def save_checkpoint(
    core: LandmarkCore,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    state: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights, moments and `state.json`; the state comes last, so a cut write leaves the old step standing."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = trained_tensors(core)
    _write(folder / "weights.safetensors", {key: p.detach().to(dtype).cpu() for key, p in tensors.items()})
    for moment in _MOMENTS:
        values = {key: optimizer.state[p][moment] for key, p in tensors.items() if p in optimizer.state}
        _write(folder / f"{moment}.safetensors", {key: m.to(dtype).cpu() for key, m in values.items()})
    scratch = folder / "state.json.new"
    scratch.write_text(json.dumps(state))
    scratch.replace(folder / "state.json")


def read_state(folder: Path) -> dict[str, Any] | None:
    """`state.json` of a folder: steps taken, config, base; None where no run was saved."""
    path = folder / "state.json"
    return json.loads(path.read_text()) if path.exists() else None


def load_checkpoint(core: LandmarkCore, optimizer: torch.optim.Optimizer, folder: Path) -> dict[str, Any]:
    """Put a checkpoint's weights and moments in place; return its state."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    moments = {moment: load_file(folder / f"{moment}.safetensors") for moment in _MOMENTS}
    for key, parameter in trained_tensors(core).items():
        parameter.data.copy_(weights[key])
        if key in moments[_MOMENTS[0]]:
            optimizer.state[parameter] = {
                # fused AdamW wants the step count on the device
                "step": torch.tensor(float(state["step"]), device=parameter.device),
                **{name: values[key].to(parameter.device, torch.float32) for name, values in moments.items()},
            }
    return state


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    scratch = path.with_suffix(".new")
    save_file(tensors, scratch)
    scratch.replace(path)
