"""Reading values out of forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from interlock.errors import BadRequest

if TYPE_CHECKING:
    from interlock.control.console.visit import Fields


class Misfilled(BadRequest):
    """Fields of a form that are not as they should be. `faults`: what is wrong, by the field's name, in their order."""

    def __init__(self, faults: Mapping[str, str], *, status: int = 400) -> None:
        fields = "One field is" if len(faults) == 1 else f"{len(faults)} fields are"
        super().__init__(f"{fields} wrong; nothing was stored.", param=next(iter(faults)))
        self.faults = dict(faults)
        self.status = status


def whole_number(form: Fields, name: str) -> int | None:
    """A field's whole number, None when it is empty. Raises BadRequest for anything else."""
    text = form.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadRequest(f"{name} is a whole number", param=name)
    return int(text)
