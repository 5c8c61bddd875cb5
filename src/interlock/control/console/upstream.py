"""A call of the playground on its way: to the gateway as any caller makes it, and back to the page as events.

Bounded in time and size. Whoever leaves, or signs out, ends the call at the gateway too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import msgspec

from interlock.control.console.streamed import event
from interlock.errors import ConfigError, InterlockError, Unavailable, UpstreamError
from interlock.sources.tls import make_context
from interlock.storage import nodes
from interlock.types.source import TlsRef
from interlock.wire.sse import Splitter, data_of

if TYPE_CHECKING:
    import ssl

    from interlock.control.web import Api

logger = logging.getLogger(__name__)

NODES_LOOKED_AT = 1000
NODE_SILENT_S = 30
KNOWN_AFTER_S = 20.0
"""How long gateways may take to hear of a key that was just made, also where the machine is busy: a page that is told
too early that nobody knows its key has no list of models until it is loaded again."""
ASK_AGAIN_S = 0.1
CONNECT_S = 5.0
REFUSAL_BYTES_MAX = 65_536
LOOK_S = 1.0
"""How often a running call asks whether its person is still signed in."""
AHEAD_MAX = 64
"""Pieces of an answer that wait for the page."""
MODELS_BYTES_MAX = 4_000_000


def gateway_url(api: Api) -> str:
    """Where the gateway is, without a slash at its end. Raises Unavailable when none is known that can be used."""
    settings = api.tools.settings
    if settings.playground_gateway_url:
        return settings.playground_gateway_url.rstrip("/")
    now = api.tools.now()
    with api.store.platform() as conn:
        known = nodes.page(conn, limit=NODES_LOOKED_AT)
    known = [node for node in known if (now - node.seen_at).total_seconds() <= NODE_SILENT_S]
    for node in sorted(known, key=lambda node: node.seen_at, reverse=True):
        if _usable(node.address):
            return node.address.rstrip("/")
    raise Unavailable(
        "No gateway can be called from here: none was heard of lately at an address that others can reach with TLS."
        " Name one in the setting playground_gateway_url."
        if known
        else "No gateway node was heard of lately: start one, or name one in the setting playground_gateway_url."
    )


def _usable(url: str) -> bool:
    """A key goes over TLS, or stays on this machine; an address that means all of a machine's leads nowhere."""
    parts = urlsplit(url)
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return parts.scheme == "https" or parts.hostname == "localhost"
    return not address.is_unspecified and (parts.scheme == "https" or address.is_loopback)


def context_for(api: Api, url: str) -> ssl.SSLContext | bool:
    """How the gateway's certificate is checked; there is no way to switch that off. Raises UpstreamError."""
    ca_file = api.tools.settings.playground_ca_file
    return make_context(TlsRef(ca_file=ca_file) if ca_file else None) if url.startswith("https:") else True


class Gateway:
    """One call's connection to the gateway, in the name of a key."""

    def __init__(self, url: str, tls: ssl.SSLContext | bool, key: str, call_s: float) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError("playground_gateway_url begins with https:// or http://", param="playground_gateway_url")
        self._url = url
        self._headers = {"authorization": f"Bearer {key}", "accept-encoding": "identity"}
        timeout = httpx2.Timeout(call_s, connect=CONNECT_S)
        self._client = httpx2.AsyncClient(verify=tls, trust_env=False, timeout=timeout, follow_redirects=False)

    async def close(self) -> None:
        """Close the connection: a call that runs is cancelled by that."""
        await self._client.aclose()

    async def models(self) -> list[dict[str, str]]:
        """Names that the key's owner may ask for, and whether each is of an alias. Raises InterlockError."""
        answer = await self._send("GET", "/v1/models")
        try:
            body = await _limited(answer, MODELS_BYTES_MAX)
        finally:
            await answer.aclose()
        if answer.status_code != 200:
            raise _refusal(answer.status_code, body)
        try:
            found = msgspec.json.decode(body)["data"]
            return [{"name": str(each["id"]), "kind": str(each["owned_by"])} for each in found]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise UpstreamError("The gateway's list of models cannot be read.") from None

    async def feedback(self, request: str, thumb: str) -> bool:
        """Say of a call of the key's owner whether its answer was good. Whether the ledger has the call already. Raises
        InterlockError."""
        answer = await self._send("POST", "/v1/feedback", {"request_id": request, "thumb": thumb})
        try:
            body = await _limited(answer, REFUSAL_BYTES_MAX)
        finally:
            await answer.aclose()
        if answer.status_code not in (200, 202):
            raise _refusal(answer.status_code, body)
        return answer.status_code == 200

    async def chat(self, body: dict[str, Any], event_bytes_max: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The events of one streamed call: "head", then "text" pieces, "usage", "finish"; or a "problem"."""
        answer = await self._send("POST", "/v1/chat/completions", body)
        try:
            yield "head", _head(answer)
            if answer.status_code != 200:
                error = _refusal(answer.status_code, await _limited(answer, REFUSAL_BYTES_MAX))
                yield "problem", {"words": error.message, "code": error.code, "status": answer.status_code}
                return
            splitter = Splitter(event_bytes_max)
            async for chunk in answer.aiter_bytes():
                for raw in splitter.feed(chunk):
                    for each in _read(data_of(raw)):
                        yield each
        finally:
            await answer.aclose()

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        """An answer whose body is still to be read. A key that is not known yet is tried again for a while."""
        until = time.monotonic() + KNOWN_AFTER_S
        content = msgspec.json.encode(body) if body is not None else None
        headers = {**self._headers, "content-type": "application/json"}
        while True:
            request = self._client.build_request(method, self._url + path, content=content, headers=headers)
            try:
                answer = await self._client.send(request, stream=True)
            except httpx2.HTTPError as e:
                raise Unavailable(f"The gateway at {self._url} cannot be reached: {e or type(e).__name__}.") from None
            if answer.status_code != 401 or time.monotonic() > until:
                return answer
            await answer.aclose()
            await asyncio.sleep(ASK_AGAIN_S)


def _head(answer: httpx2.Response) -> dict[str, Any]:
    """What an answer's headers say of where it went and why."""
    names = ("request-id", "source", "model", "decision", "workload", "waited-ms")
    found = {name.replace("-", "_"): answer.headers.get(f"x-interlock-{name}", "") for name in names}
    return {**found, "status": answer.status_code}


async def _limited(answer: httpx2.Response, most: int) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > most:
            raise UpstreamError(f"The gateway answered with more than {most} bytes.")
    return bytes(body)


def _refusal(status: int, body: bytes) -> InterlockError:
    """An error answer in the gateway's words."""
    try:
        error = msgspec.json.decode(body)["error"]
        return UpstreamError(str(error["message"]), code=str(error.get("code") or ""))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return UpstreamError(f"The gateway answered with status {status}.")


def _read(data: bytes | None) -> list[tuple[str, dict[str, Any]]]:
    """The events of the page that one event of the gateway gives."""
    if data is None or data.strip() == b"[DONE]":
        return []
    try:
        piece = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UpstreamError("The gateway sent an event that cannot be read.") from None
    out: list[tuple[str, dict[str, Any]]] = []
    if not isinstance(piece, dict):
        return out
    if isinstance(piece.get("error"), dict):
        error = piece["error"]
        return [("problem", {"words": str(error.get("message", "")), "code": str(error.get("code", "")), "status": 0})]
    for choice in piece.get("choices") or ():
        delta = choice.get("delta") or {}
        for field, kind in (("reasoning_content", "thought"), ("content", "text"), ("refusal", "text")):
            if isinstance(delta.get(field), str) and delta[field]:
                out.append((kind, {"text": delta[field]}))
        if choice.get("finish_reason"):
            out.append(("finish", {"reason": str(choice["finish_reason"])}))
    if isinstance(piece.get("usage"), dict):
        counts = {name: piece["usage"].get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}
        out.append(("usage", counts))
    return out


async def relay(
    gateway: Gateway, body: dict[str, Any], bytes_max: int, call_s: float, still: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """The call as server-sent events for the page. `still` raises InterlockError when it has to end.

    The last event is "end" with the times: to the first piece of text (-1: there was none) and in all, in milliseconds.
    """
    queue: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue(AHEAD_MAX)
    began, first_ms, sent = time.monotonic(), -1, 0
    looked = began
    pump = asyncio.create_task(_pump(gateway, body, bytes_max, queue))
    try:
        while True:
            now = time.monotonic()
            if now - looked >= LOOK_S:
                looked = now
                await still()
            if now - began > call_s:
                raise UpstreamError(f"The call took longer than playground_call_ms ({round(call_s * 1000)} ms).")
            try:
                # INVARIANT: no `wait_for`, which on Python 3.11 loses a cancellation that comes with an item
                async with asyncio.timeout(LOOK_S):
                    item = await queue.get()
            except TimeoutError:
                continue
            if item is None:
                break
            kind, value = item
            if kind in ("text", "thought"):
                first_ms = first_ms if first_ms >= 0 else round((time.monotonic() - began) * 1000)
                sent += len(value["text"])
                if sent > bytes_max:
                    raise UpstreamError(f"The answer is longer than playground_answer_bytes_max ({bytes_max}).")
            yield event(kind, value)
    except InterlockError as e:
        yield event("problem", {"words": e.message, "code": e.code, "status": 0})
    finally:
        pump.cancel()
        try:
            await asyncio.wait((pump,))
        finally:
            await gateway.close()
    yield event("end", {"first_ms": first_ms, "total_ms": round((time.monotonic() - began) * 1000)})


async def _pump(
    gateway: Gateway, body: dict[str, Any], bytes_max: int, queue: asyncio.Queue[tuple[str, dict[str, Any]] | None]
) -> None:
    try:
        async for item in gateway.chat(body, bytes_max):
            await queue.put(item)
    except httpx2.HTTPError as e:
        words = f"The connection to the gateway broke: {e or type(e).__name__}."
        await queue.put(("problem", {"words": words, "code": "", "status": 0}))
    except InterlockError as e:
        await queue.put(("problem", {"words": e.message, "code": e.code, "status": 0}))
    except Exception:
        logger.exception("an answer of the gateway could not be read")
        await queue.put(
            ("problem", {"words": "The gateway sent an event that cannot be read.", "code": "", "status": 0})
        )
    await queue.put(None)
