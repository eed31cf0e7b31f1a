"""`python -m hierlandmark.train.merge`: one adapter out of two, the second trained on from the first.

Weights of a network and of what was trained on from it can be averaged (Wortsman et al. 2022, arXiv 2203.05482), and
what one run taught the lower layers can stand below what the upper ones keep: a search reads nothing above its highest
layer, so there the mean changes no search.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from hierlandmark.errors import AdapterInvalid, InvalidArgument
from hierlandmark.model.adapter import LORA_CONFIG, Adapter, save_adapter


def merge_adapters(first: Path, second: Path, out: Path, *, below: float = 1.0, above: float, layer: int) -> Path:
    """Write the adapter that lies so far from `first` to `second`, factor by factor of the LoRA; heads are `second`'s.

    Args:
        first, second: adapter folders of one base, layout, rank and attention.
        below: share of `second` in layers under `layer`, and in the two rows.
        above: share of `second` from `layer` on.

    Raises:
        AdapterInvalid: a folder cannot be read, or they are not of one kind.
        InvalidArgument: a share outside 0 to 1.
    """
    if not (0 <= below <= 1 and 0 <= above <= 1):
        raise InvalidArgument(f"expected shares from 0 to 1, got {below!r} and {above!r}")
    one, other = Adapter.load(first), Adapter.load(second)
    same = all(getattr(one.meta, name) == getattr(other.meta, name) for name in ("base", "layout", "attention"))
    shapes = [{name: tensor.shape for name, tensor in adapter.lora.items()} for adapter in (one, other)]
    if not same or shapes[0] != shapes[1] or one.scale != other.scale:
        raise AdapterInvalid(f"{str(first)!r} and {str(second)!r} differ in base, layout, attention, rank or alpha")
    tensors = {}
    for name, tensor in one.lora.items():
        found = re.search(r"\.layers\.(\d+)\.", name)
        share = above if found and int(found[1]) >= layer else below
        tensors[name] = tensor.float().lerp(other.lora[name].float(), share)
    tensors["landmark_rows"] = one.rows.float().lerp(other.rows.float(), below)
    merged = {"first": one.digest, "second": other.digest, "below": below, "above": above, "layer": layer}
    meta = other.meta.model_copy(update={"training": {**other.meta.training, "merged": merged}})
    config = json.loads((second / LORA_CONFIG).read_text())
    name, rank, alpha = (config[key] for key in ("base_model_name_or_path", "r", "lora_alpha"))
    save_adapter(out, tensors, meta, base_name=name, rank=rank, alpha=alpha)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """One adapter out of two, the second trained on from the first."""
    parser = argparse.ArgumentParser(prog="python -m hierlandmark.train.merge", description=main.__doc__)
    parser.add_argument("first", type=Path, help="adapter folder")
    parser.add_argument("second", type=Path, help="adapter folder; its heads search")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--layer", type=int, required=True, help="the first of the upper layers")
    parser.add_argument("--below", type=float, default=1.0, help="share of the second under it, and in the rows")
    parser.add_argument("--above", type=float, required=True, help="share of the second from it on")
    args = parser.parse_args(argv)
    print(merge_adapters(args.first, args.second, args.out, below=args.below, above=args.above, layer=args.layer))


if __name__ == "__main__":
    main()
