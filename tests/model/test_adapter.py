"""Adapters and fingerprints: what is saved is what is loaded, and what changes keys changes the fingerprint."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import AdapterInvalid, ModelMismatch, ModelUnavailable
from hierlandmark.model import Adapter, AdapterMeta, LandmarkModel, RetrievalHead, save_adapter
from hierlandmark.model.adapter import LORA_CONFIG, LORA_FILE, META_FILE, ROWS_FILE
from hierlandmark.model.fingerprint import weights_digest
from hierlandmark.testing import SMALL, save_tiny, tiny_base

RANK, ALPHA = 4, 8
TARGET = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A tiny base model in a folder, with a tokenizer of its own."""
    monkeypatch.setenv("HIERLANDMARK_CACHE", str(tmp_path / "cache"))
    return save_tiny(tmp_path / "base")


def tensors(seed=0):
    made = torch.Generator().manual_seed(seed)
    return {
        f"base_model.model.{TARGET}.lora_A.weight": torch.randn(RANK, 32, generator=made),
        f"base_model.model.{TARGET}.lora_B.weight": torch.randn(32, RANK, generator=made),
        "landmark_rows": torch.randn(2, 32, generator=made),
    }


def save(folder, base=None, seed=0, memory_layers=(), searching=1, **changes):
    meta = AdapterMeta(
        layout=SMALL,
        base=weights_digest(base) if base else None,
        retrieval=(RetrievalHead(layer=searching, head=2, weight=0.5),),
        memory_layers=memory_layers,
        training={"steps": 3},
    )
    save_adapter(folder, {**tensors(seed), **changes}, meta, base_name="tiny", rank=RANK, alpha=ALPHA)
    return folder


def test_what_is_saved_is_what_is_loaded(base, tmp_path):
    adapter = Adapter.load(save(tmp_path / "a", base))
    assert adapter.weights.scale == ALPHA / RANK
    assert adapter.meta.layout == SMALL
    assert adapter.meta.training == {"steps": 3}
    rows = tensors().pop("landmark_rows")
    torch.testing.assert_close(adapter.weights.rows, rows.bfloat16())


def test_a_loaded_model_has_the_adapter_in_its_weights(base, tmp_path):
    model = LandmarkModel.from_pretrained(base, adapter=save(tmp_path / "a", base), dtype="float32")
    plain = tiny_base().get_submodule(TARGET).weight
    a, b = (tensors()[f"base_model.model.{TARGET}.lora_{x}.weight"].bfloat16().float() for x in "AB")
    torch.testing.assert_close(model.core.base.get_submodule(TARGET).weight, plain + 2 * b @ a)
    torch.testing.assert_close(model.core.rows, tensors()["landmark_rows"].bfloat16().float())
    assert model.layout == SMALL
    assert model.retrieval == (RetrievalHead(layer=1, head=2, weight=0.5),)
    # the base model beside it has no adapter
    text = model.tokenize("some text")
    assert model.nll(text, mode="full") != pytest.approx(model.nll(text, mode="flat"), abs=1e-3)


def test_the_ranking_is_the_adapters_and_votes_where_it_names_none(base, tmp_path):
    folder = save(tmp_path / "a", base)
    meta = json.loads((folder / "hierlandmark.json").read_text())
    assert meta.pop("ranking") == "votes"
    found = {}
    for name, more in {"older": {}, "summed": {"ranking": "sum"}}.items():
        (folder / "hierlandmark.json").write_text(json.dumps(meta | more))
        found[name] = LandmarkModel.from_pretrained(base, adapter=folder, dtype="float32")
    assert [model.ranking for model in found.values()] == ["votes", "sum"]
    # stored keys are the same
    assert found["older"].kv_spec == found["summed"].kv_spec
    (folder / "hierlandmark.json").write_text(json.dumps(meta | {"ranking": "loudest"}))
    with pytest.raises(AdapterInvalid, match="ranking"):
        LandmarkModel.from_pretrained(base, adapter=folder)


def test_the_layers_that_look_into_a_memory_are_the_adapters(base, tmp_path):
    assert LandmarkModel.from_pretrained(base, adapter=save(tmp_path / "a", base)).core.memory_layers == (0, 1)
    model = LandmarkModel.from_pretrained(base, adapter=save(tmp_path / "b", base, memory_layers=(1,)))
    assert model.core.memory_layers == model.kv_spec.kept == (1,)
    assert model.search_layers == (1,)


@pytest.mark.parametrize(
    ("layers", "match"),
    [((1, 0), "in order"), ((1, 1), "in order"), ((1, 7), "the base model has 2"), ((0,), "keeps nothing")],
)
def test_layers_that_are_not_there_or_keep_nothing_to_search_are_named(base, tmp_path, layers, match):
    with pytest.raises(AdapterInvalid, match=match):
        LandmarkModel.from_pretrained(base, adapter=save(tmp_path / "a", base, memory_layers=layers))


def test_peft_reads_the_same_folder(base, tmp_path):
    peft = pytest.importorskip("peft")
    folder = save(tmp_path / "a", base)
    merged = peft.PeftModel.from_pretrained(tiny_base(), folder).merge_and_unload()
    model = LandmarkModel.from_pretrained(base, adapter=folder, dtype="float32")
    wanted = merged.get_submodule(TARGET).weight
    torch.testing.assert_close(model.core.base.get_submodule(TARGET).weight, wanted)


@pytest.mark.parametrize("name", [LORA_FILE, LORA_CONFIG, ROWS_FILE, META_FILE])
@pytest.mark.parametrize("damage", ["absent", "empty", "rubbish"])
def test_a_damaged_adapter_is_named(tmp_path, name, damage):
    file = save(tmp_path / "a") / name
    file.unlink()
    if damage != "absent":
        file.write_bytes(b"" if damage == "empty" else b"\xff{}" * 20)
    with pytest.raises(AdapterInvalid, match="adapter"):
        Adapter.load(tmp_path / "a")


def test_a_config_without_rank_is_named(tmp_path):
    for config in ({"lora_alpha": 8}, {"r": 0, "lora_alpha": 8}, [], {"r": "x", "lora_alpha": 8}):
        (save(tmp_path / "a") / LORA_CONFIG).write_text(json.dumps(config))
        with pytest.raises(AdapterInvalid):
            Adapter.load(tmp_path / "a")


MISFITS = {
    "a module that is not there": {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)},
    "half a pair": {f"base_model.model.{TARGET.replace('q_', 'k_')}.lora_A.weight": torch.ones(4, 32)},
    "another width": {f"base_model.model.{TARGET}.lora_A.weight": torch.ones(4, 31)},
    "rows of another width": {"landmark_rows": torch.ones(2, 31)},
    "one row": {"landmark_rows": torch.ones(1, 32)},
}


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS)
def test_an_adapter_of_another_shape_is_refused(base, tmp_path, change):
    folder = save(tmp_path / "a", **change)
    with pytest.raises(AdapterInvalid):
        LandmarkModel.from_pretrained(base, adapter=folder, dtype="float32")


def test_an_adapter_of_other_weights_is_refused(base, tmp_path):
    folder = save(tmp_path / "a", base)
    tiny_base(seed=1).save_pretrained(tmp_path / "other")
    for file in base.glob("*token*"):
        shutil.copy(file, tmp_path / "other")
    with pytest.raises(ModelMismatch, match="hierlandmark train"):
        LandmarkModel.from_pretrained(tmp_path / "other", adapter=folder, dtype="float32")


def test_no_adapter_warns_that_landmarks_are_untrained(base):
    with pytest.warns(UserWarning, match="untrained"):
        LandmarkModel.from_pretrained(base, dtype="float32")


def test_no_model_is_a_named_error(tmp_path):
    with pytest.raises(ModelUnavailable):
        LandmarkModel.from_pretrained(tmp_path / "absent")


@pytest.mark.filterwarnings("ignore:.*untrained")
def test_what_changes_keys_changes_the_fingerprint(base, tmp_path):
    def digest(folder=base, adapter=None):
        return LandmarkModel.from_pretrained(folder, adapter=adapter, dtype="float32").kv_spec.fingerprint

    def copy(name, **options):
        shutil.copytree(base, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **options}))
        return tmp_path / name

    plain = digest()
    # a copy, written by another version of the library, under another name
    assert digest(copy("same", transformers_version="9.9.9", _name_or_path="elsewhere", architectures=None)) == plain
    # the same tensors in a file with other metadata
    again = copy("again")
    save_file(load_file(again / "model.safetensors"), again / "model.safetensors", metadata={"format": "pt", "x": "y"})
    assert digest(again) == plain

    weights = copy("weights")
    changed = load_file(weights / "model.safetensors")
    changed["model.norm.weight"][3] += 1e-3
    save_file(changed, weights / "model.safetensors", metadata={"format": "pt"})
    one, two = save(tmp_path / "one"), save(tmp_path / "two", seed=1)
    other = save(tmp_path / "layout")
    meta = AdapterMeta.model_validate_json((other / META_FILE).read_text())
    layout = LayoutConfig(block_size=8, blocks_per_segment=2)
    (other / META_FILE).write_text(meta.model_copy(update={"layout": layout}).model_dump_json())
    rope = copy("rope", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    found = [digest(weights), digest(rope), *(digest(adapter=a) for a in (one, two, other))]
    assert len({plain, *found}) == 6
    assert digest(adapter=one) == found[2]
