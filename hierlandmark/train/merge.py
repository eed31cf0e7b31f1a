"""`python -m hierlandmark.train.merge`: one adapter out of two.

With `--search` the first reads and answers and the second searches, each with weights of its own: what a run teaches
the search then costs the language nothing. Otherwise the second was trained on from the first, and both are averaged.
Weights of a network and of what was trained on from it can be averaged (Wortsman et al. 2022, arXiv 2203.05482), and
what one run taught the lower layers can stand below what the upper ones keep: a search reads nothing above its highest
layer, so there the mean changes no search.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hierlandmark.errors import AdapterInvalid, HierLandmarkError, InvalidArgument
from hierlandmark.model.adapter import LORA_CONFIG, Adapter, SearchMeta, Weights, layer_of, save_adapter


def merge_adapters(first: Path, second: Path, out: Path, *, below: float = 1.0, above: float, layer: int) -> Path:
    """Write the adapter that lies so far from `first` to `second`, factor by factor of the LoRA.

    Heads and memory layers are `second`'s, and so are weights of search that both have beside the others.

    Args:
        first, second: adapter folders of one base, layout, rank, attention and recency, with the same weights of search
            or none; `first` looks into a memory in all layers in which `second` does.
        below: share of `second` in layers under `layer`, and in the two rows.
        above: share of `second` from `layer` on.

    Raises:
        AdapterInvalid: a folder cannot be read, or they are not of one kind.
        InvalidArgument: a share outside 0 to 1.
    """
    if not (0 <= below <= 1 and 0 <= above <= 1):
        raise InvalidArgument(f"expected shares from 0 to 1, got {below!r} and {above!r}")
    one, other = Adapter.load(first), Adapter.load(second)
    _check_alike(first, one, second, other)
    if one.meta.recency != other.meta.recency:
        raise AdapterInvalid(f"{str(first)!r} and {str(second)!r} differ in recency")
    # none named: all
    looks, theirs = one.meta.memory_layers, other.meta.memory_layers
    if looks and not (theirs and set(theirs) <= set(looks)):
        raise AdapterInvalid(
            f"{str(second)!r} looks into a memory in layers of which {str(first)!r} looks in some only"
        )
    first_w, second_w = one.weights, other.weights
    shapes = [{name: tensor.shape for name, tensor in weights.lora.items()} for weights in (first_w, second_w)]
    if shapes[0] != shapes[1] or first_w.scale != second_w.scale:
        raise AdapterInvalid(f"{str(first)!r} and {str(second)!r} differ in rank or alpha")
    if not _search_alike(one.search, other.search):
        raise AdapterInvalid(f"{str(first)!r} and {str(second)!r} have different weights of search beside the others")
    tensors = {}
    for name, tensor in first_w.lora.items():
        share = above if layer_of(name) >= layer else below
        tensors[name] = tensor.float().lerp(second_w.lora[name].float(), share)
    tensors["landmark_rows"] = first_w.rows.float().lerp(second_w.rows.float(), below)
    merged = {"first": one.digest, "second": other.digest, "below": below, "above": above, "layer": layer}
    meta = other.meta.model_copy(update={"training": {**other.meta.training, "merged": merged}})
    search = other.search.tensors if other.search else None
    save_adapter(out, tensors, meta, **_lora_config(second), search=search)
    return out


def with_search(first: Path, second: Path, out: Path) -> Path:
    """Write the adapter that reads and answers as the first does, and searches as the second: heads, ranking, weights.

    Of the second only the layers that a search runs through are kept; its own weights of search, where it has some.

    Raises:
        AdapterInvalid: a folder cannot be read, they are of different bases or layouts, or nothing of the second
            searches.
    """
    one, other = Adapter.load(first), Adapter.load(second)
    _check_alike(first, one, second, other)
    if not other.meta.retrieval:
        raise AdapterInvalid(f"{str(second)!r} names no heads that search")
    weights = other.search or other.weights
    search = {name: tensor for name, tensor in weights.lora.items() if 0 <= layer_of(name) < other.search_depth}
    history = other.meta.search.training if other.meta.search else other.meta.training
    part = SearchMeta(scale=weights.scale, training=history)
    taken = {"retrieval": other.meta.retrieval, "ranking": other.meta.ranking, "search": part}
    meta = one.meta.model_copy(update=taken)
    save_adapter(out, one.weights.tensors, meta, **_lora_config(first), search=replace(weights, lora=search).tensors)
    return out


def _search_alike(one: Weights | None, other: Weights | None) -> bool:
    if one is None or other is None:
        return one is other
    a, b = one.tensors, other.tensors
    return one.scale == other.scale and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _check_alike(first: Path, one: Adapter, second: Path, other: Adapter) -> None:
    if any(getattr(one.meta, name) != getattr(other.meta, name) for name in ("base", "layout", "attention")):
        raise AdapterInvalid(f"{str(first)!r} and {str(second)!r} differ in base, layout or attention")


def _lora_config(folder: Path) -> dict[str, Any]:
    """What `save_adapter` is to be told again."""
    config = json.loads((folder / LORA_CONFIG).read_text())
    return {"base_name": config["base_model_name_or_path"], "rank": config["r"], "alpha": config["lora_alpha"]}


def main(argv: Sequence[str] | None = None) -> None:
    """One adapter out of two."""
    parser = argparse.ArgumentParser(prog="python -m hierlandmark.train.merge", description=main.__doc__)
    parser.add_argument("first", type=Path, help="adapter folder")
    parser.add_argument("second", type=Path, help="adapter folder; its heads search")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--search", action="store_true", help="the second only searches, beside the first")
    parser.add_argument("--layer", type=int, help="the first of the upper layers; with --above")
    parser.add_argument("--below", type=float, help="share of the second under it, and in the rows; 1 if not given")
    parser.add_argument("--above", type=float, help="share of the second from it on; with --layer")
    args = parser.parse_args(argv)
    if args.search != (args.layer is None and args.above is None and args.below is None):
        parser.error("expected either --search alone, or --layer and --above")
    if not args.search and (args.layer is None or args.above is None):
        parser.error("expected --layer and --above together")
    try:
        _run(args)
    except HierLandmarkError as error:
        parser.exit(2, f"{type(error).__name__}: {error.on_command_line}\n")


def _run(args: argparse.Namespace) -> None:
    if args.search:
        print(with_search(args.first, args.second, args.out))
        return
    print(
        merge_adapters(
            args.first,
            args.second,
            args.out,
            below=1.0 if args.below is None else args.below,
            above=args.above,
            layer=args.layer,
        )
    )


if __name__ == "__main__":
    main()
