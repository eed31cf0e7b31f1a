"""The installed wheel imports with no extras: `light` where torch is not installed, `no-extras` for every module."""

import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

EXTRAS = ("peft", "gguf", "langchain_core", "langchain_tests", "pytest", "hypothesis")


def light() -> None:
    """Without torch and transformers: the package, its names that need neither, and the command's help."""
    import hierlandmark

    assert "site-packages" in str(hierlandmark.__file__), hierlandmark.__file__
    assert hierlandmark.Message(id=1, content="x").id == 1
    heavy = {"torch", "transformers", "langchain", "langchain_core"} & set(sys.modules)
    assert not heavy, heavy
    command = Path(sys.executable).with_name("hierlandmark")
    assert "search" in subprocess.run([command, "--help"], check=True, capture_output=True, text=True).stdout


def no_extras() -> None:
    """With torch and transformers but no extra: every module imports, and the package's data are there."""
    # a None in sys.modules makes an import fail and find_spec say "not installed"
    sys.modules.update(dict.fromkeys(EXTRAS))
    import hierlandmark

    root = Path(str(hierlandmark.__file__)).parent
    assert "site-packages" in str(root), root
    for module in pkgutil.walk_packages([str(root)], "hierlandmark."):
        # kernels need triton, which only a torch for GPUs brings
        if not module.name.endswith(("__main__", "_triton")):
            importlib.import_module(module.name)
    assert (root / "py.typed").exists()
    shipped = {file.parts[0] for file in importlib.metadata.files("hierlandmark") or []}
    assert not {"tests", "examples", "docs", "integrations"} & shipped, shipped


{"light": light, "no-extras": no_extras}[sys.argv[1]]()
print(f"wheel: {sys.argv[1]} ok")
