"""Peak memory of a process that asks and searches, against the size of what it remembers."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hierlandmark.bench.speed import QUESTION, text_of
from hierlandmark.memory import Memory
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel
from hierlandmark.store import SQLiteStore
from hierlandmark.store.protocol import MessageRun


def fill(path: Path, model: LandmarkModel, segments: int) -> None:
    """A database of full segments: eight are encoded, the rest are copies of them, which read alike."""
    capacity = model.layout.segment_capacity
    tokens = np.asarray((model.tokenize(text_of(model, 9 * capacity, None)) * 2)[: 8 * capacity], dtype=np.int32)
    spec = model.spec("all")
    made = list(model.encode(tokens, [MessageRun(0, len(tokens))], spec=spec, sizes=[capacity] * 8))
    with SQLiteStore(path, spec) as store:
        for i in range(segments):
            message = Message(id=i, role="document", content=model.decode(made[i % 8].tokens.tolist()))
            store.append("default", [message], [replace(made[i % 8], runs=(MessageRun(i, capacity),))])


def bench_footprint(model: LandmarkModel, *, small: int = 4096, large: int = 131_072) -> dict[str, Any]:
    """Peak resident memory in MB of a process that searches and asks over each size, in both modes, and the growth."""
    out: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        for tokens in (small, large):
            path = Path(folder) / f"{tokens}.db"
            fill(path, model, tokens // model.layout.segment_size)
            for mode in ("hierarchical", "flat"):
                run = [sys.executable, "-m", "hierlandmark.bench", "use", str(path), mode]
                peak = json.loads(
                    subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
                )
                out[f"{mode}_{tokens}_mb"] = peak
            path.unlink()
    for mode in ("hierarchical", "flat"):
        out[f"{mode}_growth_mb"] = round(out[f"{mode}_{large}_mb"] - out[f"{mode}_{small}_mb"], 1)
    return out


def use(path: Path, mode: Any) -> float:
    """Search and ask three times each; peak resident memory of this process in MB."""
    model = LandmarkModel.from_pretrained()
    with Memory.open(path, model=model) as memory:
        for _ in range(3):
            memory.search(QUESTION, 10, mode=mode)
            # from all, not the messages that a search found
            memory.ask(QUESTION, max_new_tokens=16, mode=mode, among=0)
    return round(peak_resident_kb() / 1024, 1)


def peak_resident_kb() -> int:
    """Peak resident memory of this program: on Linux ``ru_maxrss`` starts from the peak of the process that forked."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak
