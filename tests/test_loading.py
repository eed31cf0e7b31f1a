"""Loading shows no bar and no warning, and leaves what the user set as it was."""

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from hierlandmark.config import LayoutConfig
from hierlandmark.loading import without_bars
from hierlandmark.model import LandmarkModel
from hierlandmark.testing import save_tiny
from hierlandmark.train.run import load_trainable

BAR = "Loading weights"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("loading") / "base")


@pytest.fixture(autouse=True)
def bars(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Bars are on, as a user has them, and nobody's hook is there."""
    active, hook = logging.is_progress_bar_enabled(), logging.set_tqdm_hook(None)
    logging.enable_progress_bar()
    yield
    assert logging.is_progress_bar_enabled() and logging.set_tqdm_hook(hook) is None
    if not active:
        logging.disable_progress_bar()


def show(text: str) -> None:
    list(logging.tqdm([1], desc=text))


def test_a_model_loads_without_a_word(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    AutoModelForCausalLM.from_pretrained(base)
    assert BAR in capfd.readouterr().err
    model = LandmarkModel.from_pretrained(base, adapter=None, peer=True)
    model.complete_full("x", max_new_tokens=1)
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load_trainable(str(base), LayoutConfig(), 2, "cpu")
    assert [one for one in told if one.category is FutureWarning] == []
    assert tuple(capfd.readouterr()) == ("", "")
    assert warnings.filters == filters
    show("after")
    assert "after" in capfd.readouterr().err


def test_bars_of_another_thread_stay(capfd: pytest.CaptureFixture[str]) -> None:
    with without_bars():
        show("mine")
        other = threading.Thread(target=show, args=("theirs",))
        other.start()
        other.join()
        with without_bars():
            pass
        show("mine")
    told = capfd.readouterr().err
    assert "theirs" in told and "mine" not in told


def test_a_hook_of_the_user_is_asked_and_stays(capfd: pytest.CaptureFixture[str]) -> None:
    seen = []

    def hook(make, args, options):
        seen.append((options["desc"], options.get("disable", False)))
        return make(*args, **options)

    logging.set_tqdm_hook(hook)
    with without_bars():
        show("a")
    show("b")
    with without_bars():
        # one that comes in between stays, and so does ours where it is put back
        ours = logging.set_tqdm_hook(None)
    assert logging.set_tqdm_hook(ours) is None
    with without_bars():
        show("c")
    show("d")
    assert seen == [("a", True), ("b", False), ("c", True), ("d", False)]
    assert logging.set_tqdm_hook(None) is hook
