"""Checkpoints as safetensors: trained tensors and the optimizer's moments."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hierlandmark.errors import InvalidArgument
from hierlandmark.model.core import LandmarkCore
from hierlandmark.train.files import STATE, resumed_state

WEIGHTS, _MOMENTS = "weights", ("exp_avg", "exp_avg_sq")


def trained_tensors(core: LandmarkCore) -> dict[str, torch.Tensor]:
    """An adapter's parameters by the names that peft gives its tensors, also those that a run leaves as they were; the
    two rows as `landmark_rows`."""
    out: dict[str, torch.Tensor] = {}
    for name, parameter in core.named_parameters():
        if parameter.requires_grad or name == "rows" or ".lora_" in name:
            key = "landmark_rows" if name == "rows" else name.removeprefix("base.").replace(".default.", ".")
            out[key] = parameter
    return out


def save_checkpoint(core: LandmarkCore, optimizer: torch.optim.Optimizer, folder: Path, state: dict[str, Any]) -> None:
    """Write weights and moments into a folder of their own, then `state.json`, which names it; then drop the older.

    A cut write leaves the older checkpoint standing.
    """
    name = f"step-{state['step']:06d}"
    tensors = trained_tensors(core)
    values = {WEIGHTS: {key: p.detach() for key, p in tensors.items()}}
    for moment in _MOMENTS:
        values[moment] = {key: optimizer.state[p][moment] for key, p in tensors.items() if p in optimizer.state}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for file, each in values.items():
        path = _file(folder / name, file)
        scratch = path.with_suffix(".new")
        save_file({key: tensor.float().contiguous().cpu() for key, tensor in each.items()}, scratch)
        scratch.replace(path)
    scratch = folder / f"{STATE}.new"
    # fewer than the steps where spikes were skipped
    updates = max((int(moments["step"]) for moments in optimizer.state.values()), default=0)
    scratch.write_text(json.dumps({"checkpoint": name, "updates": updates, **state}))
    scratch.replace(folder / STATE)
    for older in folder.glob("step-*"):
        if older.name != name:
            shutil.rmtree(older, ignore_errors=True)


def load_checkpoint(core: LandmarkCore, optimizer: torch.optim.Optimizer, folder: Path) -> dict[str, Any]:
    """Put a checkpoint's weights and moments in place; return its state.

    Raises:
        InvalidArgument: a file is missing or damaged, or holds tensors of other names or shapes.
    """
    state = resumed_state(folder)
    where = folder / state["checkpoint"]
    try:
        weights = load_file(_file(where, WEIGHTS))
        moments = {moment: load_file(_file(where, moment)) for moment in _MOMENTS}
        for key, parameter in trained_tensors(core).items():
            parameter.data.copy_(weights[key])
            if key in moments[_MOMENTS[0]]:
                optimizer.state[parameter] = {
                    # fused AdamW wants the step count on the device
                    "step": torch.tensor(float(state["updates"]), device=parameter.device),
                    # a checkpoint may have been brought home in half precision
                    **{name: values[key].to(parameter.device, torch.float32) for name, values in moments.items()},
                }
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise InvalidArgument(f"the checkpoint {str(where)!r} cannot be taken up: {error!r}") from error
    return state


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
