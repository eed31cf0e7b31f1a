"""Importing the package costs nothing."""

import subprocess
import sys

import pytest

import hierlandmark

HEAVY = ("torch", "transformers", "langchain", "langchain_core", "numpy", "pydantic")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_import_loads_nothing() -> None:
    assert loaded_after("import hierlandmark") == set()


def test_command_line_loads_no_model_code() -> None:
    assert not loaded_after("import hierlandmark.cli") & {"torch", "transformers", "langchain", "langchain_core"}


def test_settings_and_errors_need_no_torch() -> None:
    names = "Message, MemoryConfig, RecallConfig, LayoutConfig, HierLandmarkError, InvalidChatFile"
    assert not loaded_after(f"from hierlandmark import {names}") & {"torch", "transformers"}


@pytest.mark.parametrize("name", sorted(set(hierlandmark.__all__) - {"Memory", "LandmarkModel", "__version__"}))
def test_lazy_name_is_the_object_of_its_module(name: str) -> None:
    value = getattr(hierlandmark, name)
    assert value.__name__ == name
    assert name in dir(hierlandmark)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Memori'"):
        _ = hierlandmark.Memori


def test_every_error_is_exported() -> None:
    from hierlandmark import errors

    known = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    named = {name for name, value in known.items() if issubclass(value, errors.HierLandmarkError)}
    assert named <= set(hierlandmark.__all__)


def test_version_agrees_with_the_distribution() -> None:
    from importlib.metadata import version

    assert hierlandmark.__version__ == version("hierlandmark")
