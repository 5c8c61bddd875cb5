"""What a model's name gives away: how many parameters it has, and what it is a size or a version of.

Names are made by people: what is read here is a first guess, for whoever declares it knows better
(`ModelSpec.parameters_m`, `family`), and nothing that is allowed or refused depends on it.
"""

from __future__ import annotations

import re

MILLION = 1_000_000
PARAMETERS_M_MAX = 1_000_000_000
"""More than that no engine is believed to have."""
_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])")
_APART = re.compile(r"[-_ .:@+]+")
_LETTERS = re.compile(r"[a-z]{2,}")


def parameters_named(name: str) -> int:
    """Millions of parameters, from "7B", "8x7b" (all experts), "135M"; 0: the name does not tell."""
    match = _SIZE.search(name.lower())
    if match is None:
        return 0
    experts, size, unit = match.groups()
    return round(int(experts or 1) * float(size) * (1000 if unit == "b" else 1))


def family_named(name: str) -> str:
    """What stands before the first digits, without who publishes it: "Qwen/Qwen2.5-7B" is of "qwen", "gpt-4o" of
    "gpt", "Meta-Llama-3.1-8B" of "meta-llama". Of a name without digits its first word."""
    words = [word for word in _APART.split(name.rpartition("/")[2].lower()) if word]
    found: list[str] = []
    for word in words:
        if any(map(str.isdigit, word)):
            letters = _LETTERS.match(word)
            if letters is not None:
                found.append(letters[0])
            break
        found.append(word)
    else:
        found = words[:1]
    return "-".join(found or words[:1])


def parameters_words(millions: int) -> str:
    """To be shown: "7B", "1.5B", "135M"; 0: ""."""
    if not millions:
        return ""
    return f"{millions / 1000:.3g}B" if 1000 <= millions < 1_000_000 else f"{millions:,}M"


def parameters_told(value: object) -> int:
    """Millions of parameters, from their number as an engine tells it; 0: it is none."""
    if type(value) is not int or value <= 0:
        return 0
    return min(max(1, round(value / MILLION)), PARAMETERS_M_MAX)
