"""The transformers binding: encode, look into a memory, generate, load and save adapters."""

from hierlandmark.model.adapter import Adapter, AdapterMeta, Ranking, RetrievalHead, save_adapter
from hierlandmark.model.landmark_model import LandmarkModel

__all__ = ["Adapter", "AdapterMeta", "LandmarkModel", "Ranking", "RetrievalHead", "save_adapter"]
