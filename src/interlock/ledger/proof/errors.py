"""What is not the proof it claims to be."""

from __future__ import annotations


class ProofError(ValueError):
    """A note, key, checkpoint, coverage, proof or tile is malformed, or its signature is wrong.

    The message is one sentence and may be shown; it quotes no more than a few characters of the input.
    """
