"""`python -m hierlandmark.bench WHAT`: measurements, each a line of JSON on standard output."""

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    """Run one measurement, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m hierlandmark.bench", description=main.__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    ask = commands.add_parser("ask", help="first token and decoding, beside reading everything again")
    ask.add_argument("--tokens", type=int, default=32_768)
    ask.add_argument("--no-prefill", action="store_true")
    commands.add_parser("add", help="tokens/s, beside a plain forward pass")
    commands.add_parser("footprint", help="peak memory, 4K against 128K tokens")
    commands.add_parser("all", help="add, ask and footprint, one after the other")
    commands.add_parser("attention", help="the kernels beside torch's fused attention; needs a GPU")
    use = commands.add_parser("use", help="what footprint runs in a process of its own")
    use.add_argument("path", type=Path)
    use.add_argument("mode")
    given = parser.parse_args()
    if given.what == "attention":
        from hierlandmark.bench.attention import bench_attention

        for row in bench_attention():
            _print(row)
        return
    from hierlandmark.bench import footprint, speed
    from hierlandmark.model import LandmarkModel

    if given.what == "use":
        _print(footprint.use(given.path, given.mode))
        return
    model = LandmarkModel.from_pretrained()
    if given.what in ("add", "all"):
        _print(speed.bench_add(model))
    if given.what == "all":
        _print(speed.bench_ask(model))
    elif given.what == "ask":
        _print(speed.bench_ask(model, tokens=given.tokens, prefill=not given.no_prefill))
    if given.what in ("footprint", "all"):
        _print(footprint.bench_footprint(model))


def _print(result: object) -> None:
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
