"""A folder as the hub's cache keeps it, so that a hub id is found without a network."""

import shutil

import huggingface_hub.constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def as_hub_id(folder, tmp_path, monkeypatch):
    """Copy a folder into an offline cache of its own and return the id that finds it there."""
    cache = tmp_path / "hub"
    repo = cache / "models--nobody--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repo / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return "nobody/tiny"
