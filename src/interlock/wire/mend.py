"""Streams that are not quite OpenAI's: what clients cannot do without is put in.

Google's compatible endpoint leaves out `tool_calls[].index`, by which clients put the pieces of a call together; with
several calls they would all be taken for one, or for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from interlock.wire.answers import StreamChoice


def lacks_index(choices: list[StreamChoice]) -> bool:
    """Whether an event has a piece of a tool call that does not say which call it belongs to."""
    for choice in choices:
        calls = choice.delta.get("tool_calls") if choice.delta else None
        if isinstance(calls, list):
            for call in calls:
                if isinstance(call, dict) and type(call.get("index")) is not int:
                    return True
    return False


class CallIndexes:
    """Numbers the calls of one stream: a piece with a new id, or with a name and no id, begins a call; any other
    belongs to the last one."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._ids: dict[tuple[int, str], int] = {}

    def mend(self, payload: bytes) -> bytes:
        """The event's JSON with an index at each piece."""
        event = msgspec.json.decode(payload, type=dict[str, Any])
        for choice in event["choices"]:
            delta = choice.get("delta")
            calls = delta.get("tool_calls") if isinstance(delta, dict) else None
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict):
                    call["index"] = self._index(choice.get("index") or 0, call)
        return msgspec.json.encode(event)

    def _index(self, choice: int, call: dict[str, Any]) -> int:
        given = call.get("index")
        call_id = call.get("id")
        if type(given) is int:
            index = given
        elif isinstance(call_id, str) and (choice, call_id) in self._ids:
            index = self._ids[choice, call_id]
        else:
            function = call.get("function")
            names = isinstance(function, dict) and function.get("name")
            last = self._last.get(choice, -1)
            index = last + 1 if call_id or names or last < 0 else last
        if isinstance(call_id, str) and call_id and len(self._ids) < IDS_MAX:
            self._ids[choice, call_id] = index
        self._last[choice] = max(index, self._last.get(choice, -1))
        return index


IDS_MAX = 1024
"""Calls of one stream whose ids are remembered."""
