"""hierlandmark for LangChain: a retriever and a chat history over one memory."""

from langchain_hierlandmark.history import HierLandmarkChatMessageHistory
from langchain_hierlandmark.retriever import HierLandmarkRetriever

__all__ = ["HierLandmarkChatMessageHistory", "HierLandmarkRetriever"]
