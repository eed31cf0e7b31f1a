"""`python -m hierlandmark.bench WHAT`: measurements, each a line of JSON on standard output."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from hierlandmark.allocator import keep_freed_memory
from hierlandmark.bench.decode import LENGTHS, MODES, bench_decode
from hierlandmark.config import Granularity, RecallConfig


def main() -> None:
    """Run one measurement, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m hierlandmark.bench", description=main.__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    ask = commands.add_parser("ask", help="first token and decoding, beside reading everything again")
    ask.add_argument("--tokens", type=int, default=32_768)
    ask.add_argument("--no-prefill", action="store_true")
    commands.add_parser("add", help="tokens/s, beside a plain forward pass")
    decode = commands.add_parser("decode", help="tokens/s over memories of many sizes, beside an empty one")
    decode.add_argument("--lengths", type=_integers, default=LENGTHS, help="positions, with commas between them")
    decode.add_argument("--modes", type=lambda text: text.split(","), default=MODES)
    decode.add_argument("--db", type=Path, help="kept and used again; 5 MB a segment of 512 positions")
    decode.add_argument("--text", type=Path, help="a file to encode instead of sentences of plain words")
    decode.add_argument("--encode-all", action="store_true", help="encode every segment: minutes for every 64K")
    decode.add_argument("--repeats", type=int, default=5)
    decode.add_argument("--new-tokens", type=int, default=32)
    decode.add_argument("--cached-blocks", type=int, default=RecallConfig().cached_blocks, help="of each layer")
    decode.add_argument("--granularity", choices=get_args(Granularity), default=RecallConfig().granularity)
    decode.add_argument("--threshold", type=float, default=RecallConfig().threshold, help="gate mass to read at all")
    decode.add_argument("--stride", type=int, default=RecallConfig().stride, help="tokens from one choice to the next")
    commands.add_parser("footprint", help="peak memory, 4K against 128K tokens")
    commands.add_parser("all", help="add, ask and footprint, one after the other")
    _attention_options(
        commands.add_parser("attention", help="the kernels beside torch's fused attention; plain torch without a GPU")
    )
    use = commands.add_parser("use", help="what footprint runs in a process of its own")
    use.add_argument("path", type=Path)
    use.add_argument("mode")
    given = parser.parse_args()
    keep_freed_memory()
    if given.what == "attention":
        for row in _attention(given, parser):
            _print(row)
        return
    from hierlandmark.bench import footprint, speed
    from hierlandmark.model import LandmarkModel

    if given.what == "use":
        _print(footprint.use(given.path, given.mode))
        return
    model = LandmarkModel.from_pretrained()
    if given.what == "decode":
        options = vars(given)
        del options["what"]
        for row in bench_decode(model, **options):
            _print(row)
        return
    if given.what in ("add", "all"):
        _print(speed.bench_add(model))
    if given.what == "all":
        _print(speed.bench_ask(model))
    elif given.what == "ask":
        _print(speed.bench_ask(model, tokens=given.tokens, prefill=not given.no_prefill))
    if given.what in ("footprint", "all"):
        _print(footprint.bench_footprint(model))


def _attention_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("dense", "recall"), help="dense: forward and backward; recall: forward")
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="such as B8-H9/3-D64")
    parser.add_argument("--lengths", nargs="+", type=int, metavar="T", help="positions, whole segments of 512")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--segments", type=int, default=8, help="recall: segments a block of queries opens")
    parser.add_argument("--blocks", type=int, default=16, help="recall: blocks that it reads")
    parser.add_argument("--sweep", action="store_true", help="recall: time each kernel's settings instead; needs a GPU")


def _attention(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Iterator[dict[str, Any]]:
    from hierlandmark.bench import attention, recall

    sizes = {"segments": given.segments, "blocks": given.blocks}
    chosen: dict[str, Any] = {"repeats": given.repeats}
    try:
        if given.shapes:
            chosen["shapes"] = [attention.Shape.parse(each) for each in given.shapes]
        for length in given.lengths or ():
            attention.full_layout(1, length)
    except ValueError as error:
        parser.error(str(error))
    if given.lengths:
        chosen["lengths"] = given.lengths
    if given.sweep:
        yield from recall.sweep(**chosen, **sizes)
        return
    if given.only != "recall":
        yield from attention.bench_attention(**chosen)
    if given.only != "dense":
        yield from recall.bench_recall(**chosen, **sizes)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _print(result: object) -> None:
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
