"""What is asked of a simulated fleet: conversations, made from a seed or read from a file.

A conversation is a row of words, and each of its turns sends the first so many of them: what was said before comes
again, as chat clients do it. Words of two conversations differ but for a beginning that they share by intent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import msgspec

from interlock.errors import ConfigError

SYSTEM_TOKENS = 256
TURNS = (2, 10)
ASKED_TOKENS = (64, 512)
ANSWER_TOKENS = (32, 192)
THINK_S = 6.0
DOCUMENTS, DOCUMENT_TOKENS, SKEW = 200, 1024, 1.1
GROUPS, GROUP_TOKENS = 8, 2048
FILE_CALLS_MAX = 1_000_000
TOKENS_MAX = 1_000_000


class Turn(NamedTuple):
    """One call. `prompt_tokens`: of its whole prompt; `think_s`: from the answer before it to this call."""

    prompt_tokens: int
    completion_tokens: int
    think_s: float


class Conversation(NamedTuple):
    """`opening`: what a gateway knows it by. `words`: as many as its longest prompt has tokens."""

    start_s: float
    opening: bytes
    words: tuple[str, ...]
    turns: tuple[Turn, ...]


def _words(of: str, count: int) -> list[str]:
    return [f"{of}.{number}" for number in range(count)]


def _talk(rng: random.Random, name: str, shared: list[str], turns: int) -> Conversation:
    tokens, made = len(shared), []
    for number in range(turns):
        tokens += rng.randint(*ASKED_TOKENS)
        answer = rng.randint(*ANSWER_TOKENS)
        made.append(Turn(tokens, answer, rng.expovariate(1 / THINK_S) if number else 0.0))
        tokens += answer
    words = shared + _words(name, made[-1].prompt_tokens - len(shared))
    return Conversation(0.0, name.encode(), tuple(words), tuple(made))


def multi_turn(rng: random.Random, number: int) -> Conversation:
    """A chat of 2 to 10 turns behind a system prompt of 256 tokens that all have."""
    return _talk(rng, f"talk{number}", _words("system", SYSTEM_TOKENS), rng.randint(*TURNS))


def shared_prefix(rng: random.Random, number: int) -> Conversation:
    """A chat of three turns behind one of 8 system prompts of 2,048 tokens."""
    return _talk(rng, f"talk{number}", _words(f"group{rng.randrange(GROUPS)}", GROUP_TOKENS), 3)


_CHANCES = list(accumulate(1 / (rank + 1) ** SKEW for rank in range(DOCUMENTS)))


def skewed(rng: random.Random, number: int) -> Conversation:
    """One question about one of 200 documents of 1,024 tokens; the n-th is asked about n^-1.1 times as often."""
    (document,) = rng.choices(range(DOCUMENTS), cum_weights=_CHANCES)
    words = _words(f"document{document}", DOCUMENT_TOKENS) + _words(f"question{number}", 32)
    return Conversation(
        0.0, b"document%d" % document, tuple(words), (Turn(len(words), rng.randint(*ANSWER_TOKENS), 0),)
    )


WORKLOADS: dict[str, Callable[[random.Random, int], Conversation]] = {
    "multi-turn": multi_turn,
    "skewed": skewed,
    "shared-prefix": shared_prefix,
}


def made(name: str, calls: int, rng: random.Random) -> list[Conversation]:
    """Conversations with `calls` calls or a few more, all beginning at 0."""
    build, count = WORKLOADS[name], 0
    found: list[Conversation] = []
    while count < calls:
        found.append(build(rng, len(found)))
        count += len(found[-1].turns)
    return found


def arriving(conversations: Sequence[Conversation], per_s: float, rng: random.Random) -> list[Conversation]:
    """The same, beginning at times of a Poisson process."""
    at_s, out = 0.0, []
    for each in conversations:
        at_s += rng.expovariate(per_s)
        out.append(each._replace(start_s=at_s))
    return out


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    prompt_tokens: int
    completion_tokens: int
    think_s: float = 0.0


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    conversation: str
    start_s: float
    turns: list[_Turn]
    shared: str = ""
    shared_tokens: int = 0


def read(path: Path) -> list[Conversation]:
    """Conversations from a file, one JSON object a line; see docs/placement.md. Raises ConfigError."""
    decoder, found, calls = msgspec.json.Decoder(_Line), [], 0
    try:
        lines = path.read_bytes().splitlines()
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}", param=str(path)) from None
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}, line {number}: {e}", param=str(path)) from None
        calls += len(line.turns)
        problem = _problem(line)
        if problem or calls > FILE_CALLS_MAX:
            raise ConfigError(
                f"{path}, line {number}: {problem or f'more than {FILE_CALLS_MAX} calls'}", param=str(path)
            )
        longest = max(turn.prompt_tokens for turn in line.turns)
        words = _words(line.shared, line.shared_tokens)[:longest]
        words += _words(f"own-{line.conversation}", longest - len(words))
        turns = tuple(Turn(t.prompt_tokens, t.completion_tokens, t.think_s) for t in line.turns)
        found.append(Conversation(line.start_s, line.conversation.encode(), tuple(words), turns))
    if not found:
        raise ConfigError(f"{path}: there is no conversation in it", param=str(path))
    return sorted(found, key=lambda each: each.start_s)


def _problem(line: _Line) -> str:
    if not line.turns:
        return "a conversation has at least one turn"
    if line.start_s < 0 or any(turn.think_s < 0 for turn in line.turns):
        return "times are not negative"
    if not 0 <= line.shared_tokens <= TOKENS_MAX:
        return f"shared_tokens is 0 to {TOKENS_MAX}"
    if not all(1 <= t.prompt_tokens <= TOKENS_MAX and 1 <= t.completion_tokens <= TOKENS_MAX for t in line.turns):
        return f"tokens are 1 to {TOKENS_MAX}"
    return ""
