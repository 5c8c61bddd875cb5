"""Reading values out of forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import BadRequest

if TYPE_CHECKING:
    from interlock.control.console.visit import Fields


def whole_number(form: Fields, name: str) -> int | None:
    """A field's whole number, None when it is empty. Raises BadRequest for anything else."""
    text = form.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadRequest(f"{name} is a whole number", param=name)
    return int(text)
