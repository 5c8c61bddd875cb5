"""Interlock: the governed layer above LLM inference servers."""

__version__ = "0.1.0"
