"""`Idempotency-Key`: a repeated request is neither run nor charged twice; it gets the answer of the first.

    Claiming -- KeyClaim --> node: fresh ------> the call goes on; its answer is captured on its way to the caller
                                   done -------> that answer, opened, and a record that says so
                                   running ----> asked again until `idempotency_wait_ms`, then 409
                                   other ------> 422: the key stands for another request
                                   lost -------> 409: the first call was interrupted; the ledger says what it took

A key belongs to a principal. What is stored is named by keyed hashes of key and request, and encrypted under a key that
is made of the idempotency key itself: only who sends it again can read the answer. A caller that goes away while its
call runs does not end it: it finds the answer when it asks again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from interlock.errors import BadRequest, Conflict, InterlockError, Unavailable
from interlock.gateway.faces.openai import OPENAI
from interlock.gateway.http.exchange import unchunked
from interlock.gateway.link import KeyAnswer, KeyClaim, KeyEnd
from interlock.gateway.waiting import ClientGone
from interlock.types.identity import Recording

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Exchange, Headers, Sink
    from interlock.gateway.runtime import Runtime

IDEMPOTENCY_KEY = b"idempotency-key"
KEY_MAX = 255
"""Longest idempotency key taken, characters."""
ASK_AGAIN_NS = 250_000_000
NONCE_BYTES = 12
ANSWER_MAX = 700_000
"""Bytes of an answer that fit into a message between worker and node."""
REPLAYED = b"x-interlock-replayed: true\r\n"


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was given. `headers`: header lines; `streamed`: it was an event stream."""

    status: int
    headers: bytes
    body: bytes
    streamed: bool


class Replayed(InterlockError):
    """The call is not made, because its answer is there already. Never shown: the answer is."""

    code, status, level = "idempotent_replay", 200, 20


_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def key_of(call: Call) -> bytes:
    """The request's idempotency key, b"" without one. Raises BadRequest."""
    value = call.request.headers.get(IDEMPOTENCY_KEY)
    if value is None:
        return b""
    key = value.strip()
    if len(key) >= 2 and key[:1] == b'"' == key[-1:]:
        key = key[1:-1]
    if not key or len(key) > KEY_MAX or not all(0x20 <= byte < 0x7F for byte in key):
        raise BadRequest(
            f"Header 'idempotency-key' must be 1 to {KEY_MAX} printable ASCII characters.", param="idempotency-key"
        )
    return key


class Claims:
    """A worker's claims that wait for the node. `secret`: of the installation."""

    def __init__(self, epoch: str, secret: bytes, tell: Callable[[KeyClaim | KeyEnd], bool]) -> None:
        self.epoch = epoch
        self.tell = tell
        self._secret = secret
        self._number = 0
        self._waiting: dict[int, Claiming] = {}

    def ask(self, claiming: Claiming) -> int:
        """Send a claim; its number."""
        self._number += 1
        self._waiting[self._number] = claiming
        if not self.tell(claiming.message(self._number)):
            self._waiting.pop(self._number)
            claiming.answered(KeyAnswer(self.epoch, self._number, "unavailable"))
        return self._number

    def answered(self, message: KeyAnswer) -> None:
        """The node's answer."""
        claiming = self._waiting.pop(message.number, None)
        if claiming is not None and message.epoch == self.epoch:
            claiming.answered(message)

    def derive(self, label: bytes, *parts: bytes) -> bytes:
        """32 bytes that follow from the installation's secret, a label and these parts."""
        text = b"".join(len(part).to_bytes(8, "big") + part for part in (label, *parts))
        return hmac.digest(self._secret, b"idempotency\0" + text, hashlib.sha256)


class Claiming:
    """The exchange of a call with an idempotency key, from its claim to its end."""

    def __init__(
        self,
        call: Call,
        key: bytes,
        runtime: Runtime,
        go: Callable[[Call, Runtime], Exchange | None],
        refuse: Callable[[Call, InterlockError, Runtime], None],
    ) -> None:
        """`go` makes the call; `refuse` answers with an error. One of them is called, once."""
        identity = call.identity
        assert identity is not None  # noqa: S101 - stage order
        self._call = call
        self.call_number = call.number
        self._runtime = runtime
        self._go = go
        self._refuse = refuse
        self._exchange: Exchange | None = None
        self._number = 0
        self._over = False
        self._running = False
        self._again_ns = 0
        self._deadline_ns = runtime.clock.mono_ns() + runtime.settings.idempotency_wait_ms * 1_000_000
        caller = identity.caller
        self.tenant_id, self.principal_id = identity.tenant_id, caller.principal.id
        self.subject = caller.delegator.id if caller.delegator is not None else caller.principal.id
        owner = (self.tenant_id.encode(), self.principal_id.encode())
        derive = runtime.claims.derive
        self.digest = derive(b"key", *owner, key)
        acting = self.subject.encode()
        # Equal bodies at two endpoints are two requests; those of OpenAI's are told apart by their operation.
        what = call.operation if call.face is OPENAI else f"{call.face.name} {call.request.path}"
        self.fingerprint = derive(b"request", self.digest, acting, what.encode(), call.request.body)
        self._seal_key = derive(b"answer", *owner, key)

    def begin(self) -> None:
        """Ask for the key."""
        self._runtime.waiting.add(self)
        self._number = self._runtime.claims.ask(self)

    def told(self) -> tuple[Call, str]:
        """See Waits."""
        return self._call, "the claim of its idempotency key"

    def message(self, number: int) -> KeyClaim:
        """The claim as it is sent."""
        return KeyClaim(
            self._runtime.claims.epoch,
            number,
            self.tenant_id,
            self.principal_id,
            self.digest,
            self.fingerprint,
            self.subject,
            self._call.id,
        )

    def answered(self, message: KeyAnswer) -> None:
        """What there is under the key."""
        if self._over:
            if message.state == "fresh":
                self.tell_end("free")
            return
        if message.state == "fresh":
            self._leave()
            self._running = True
            self._call.wall_ns = self._runtime.clock.wall_ns()  # admitted now, not when it came
            most = min(self._runtime.settings.idempotency_answer_bytes_max, ANSWER_MAX)
            if self._call.recording != Recording.full:
                most = -1  # an answer that is not to be kept is not kept here either
            self._call.sink = Capture(self._call, self, most)
            self._exchange = self._go(self._call, self._runtime)
        elif message.state == "running":
            self._number = 0
            self._again_ns = self._runtime.clock.mono_ns() + ASK_AGAIN_NS
        elif message.state == "done" and message.answer:
            self._replay(message)
        else:
            self.end(_error(message))

    def sweep(self, now_ns: int) -> None:
        """Ask again for a call that is still running; give up after a while."""
        if now_ns >= self._deadline_ns:
            self.end(
                Conflict(
                    "The first request with this idempotency key has not ended yet; try again.",
                    code="idempotency_in_progress",
                    headers={"retry-after": "1"},
                )
                if not self._number
                else _error(KeyAnswer("", 0, "unavailable"))
            )
        elif not self._number and now_ns >= self._again_ns:
            self._number = self._runtime.claims.ask(self)

    def end(self, error: InterlockError) -> None:
        """Refuse the call now."""
        if not self._over:
            self._leave()
            self._refuse(self._call, error, self._runtime)

    def tell_end(self, state: str, answer: Answer | None = None) -> None:
        """Say how the call ended that has the key."""
        sealed = self._seal(answer) if answer is not None else b""
        self._runtime.claims.tell(KeyEnd(self.tenant_id, self.principal_id, self.digest, self._call.id, state, sealed))

    def on_disconnect(self) -> None:
        """See Exchange. A call that runs goes on: who asks again gets its answer."""
        sink = self._call.sink
        if self._running and isinstance(sink, Capture):
            sink.detach()
            if self._exchange is not None:
                self._exchange.on_resume()
        else:
            self.end(ClientGone("The caller went away before the call was made."))

    def on_pause(self) -> None:
        """See Exchange."""
        if self._exchange is not None:
            self._exchange.on_pause()

    def on_resume(self) -> None:
        """See Exchange."""
        if self._exchange is not None:
            self._exchange.on_resume()

    def _leave(self) -> None:
        self._over = True
        self._runtime.waiting.discard(self)

    def _replay(self, message: KeyAnswer) -> None:
        try:
            answer = self._open(message.answer)
        except ValueError:
            self.end(_error(message))
            return
        self._leave()
        sink = self._call.sink
        self._call.sink = Replay(sink, answer)
        words = f"The answer of {message.request}, the first request with this idempotency key, was given again."
        self._refuse(self._call, Replayed(words), self._runtime)

    def _seal(self, answer: Answer) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self._seal_key).encrypt(nonce, msgspec.msgpack.encode(answer), self.digest)

    def _open(self, sealed: bytes) -> Answer:
        """Raises ValueError."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            plain = AESGCM(self._seal_key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self.digest)
            return _decode_answer(plain)
        except (InvalidTag, msgspec.MsgspecError) as e:
            raise ValueError(str(e)) from None


class Capture:
    """Passes an answer on to its caller and keeps it; in the end says what became of it."""

    def __init__(self, call: Call, claiming: Claiming, bytes_max: int) -> None:
        self._sink: Sink | None = call.sink
        self._call = call
        self._claiming = claiming
        self._left = bytes_max
        self._headers = b""
        self._pieces: list[bytes] = []

    def detach(self) -> None:
        """The caller is gone."""
        self._sink = None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See Sink."""
        if status == 200:
            self._keep(body)
            self._done(Answer(status, headers, b"".join(self._pieces), streamed=False))
        else:
            self._claiming.tell_end("lost" if self._call.charged else "free")
        if self._sink is not None:
            self._sink.respond(status, headers, body)

    def start(self, status: int, headers: Headers) -> None:
        """See Sink."""
        self._headers = headers
        if self._sink is not None:
            self._sink.start(status, headers)

    def write(self, data: bytes) -> None:
        """See Sink."""
        self._keep(data)
        if self._sink is not None:
            self._sink.write(data)

    def write_chunks(self, chunks: bytes) -> None:
        """See Sink."""
        self._keep(unchunked(chunks))
        if self._sink is not None:
            self._sink.write_chunks(chunks)

    def end(self) -> None:
        """See Sink."""
        self._done(Answer(200, self._headers, b"".join(self._pieces), streamed=True))
        if self._sink is not None:
            self._sink.end()

    def abort(self) -> None:
        """See Sink. Of a stream that was kept open while its call waited in vain, no source has seen anything."""
        self._claiming.tell_end("free" if self._call.charged is False else "lost")
        if self._sink is not None:
            self._sink.abort()

    def _keep(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def _done(self, answer: Answer) -> None:
        """An answer that is too large is not kept: its key stands for a call whose answer is gone."""
        self._claiming.tell_end("done", answer if self._left >= 0 else None)


class Replay:
    """Gives an earlier answer in the place of the refusal that is recorded."""

    def __init__(self, sink: Sink, answer: Answer) -> None:
        self._sink = sink
        self._answer = answer

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See Sink. With the status of the record the earlier answer leaves, with any other what is given."""
        answer = self._answer
        if status != Replayed.status:
            self._sink.respond(status, headers, body)
        elif answer.streamed:
            self._sink.start(answer.status, answer.headers + REPLAYED)
            self._sink.write(answer.body)
            self._sink.end()
        else:
            self._sink.respond(answer.status, answer.headers + REPLAYED, answer.body)

    def start(self, status: int, headers: Headers) -> None:
        """See Sink."""
        self._sink.start(status, headers)

    def write(self, data: bytes) -> None:
        """See Sink."""
        self._sink.write(data)

    def write_chunks(self, chunks: bytes) -> None:
        """See Sink."""
        self._sink.write_chunks(chunks)

    def end(self) -> None:
        """See Sink."""
        self._sink.end()

    def abort(self) -> None:
        """See Sink."""
        self._sink.abort()


def _error(message: KeyAnswer) -> InterlockError:
    """Why a call is not made that finds its key taken."""
    if message.state == "other":
        error: InterlockError = BadRequest(
            "This idempotency key was used for another request; use a new key for each request.",
            code="idempotency_key_reused",
            param="idempotency-key",
        )
        error.status = 422
        return error
    if message.state == "done":
        return Conflict(
            f"The call {message.request} was made under this idempotency key; its answer was not kept.",
            code="idempotency_answer_gone",
        )
    if message.state == "lost":
        return Conflict(
            f"The call {message.request}, made under this idempotency key, was interrupted; it may have been charged."
            " Use a new key to make it again.",
            code="idempotency_interrupted",
        )
    return Unavailable(
        "Whether a request with this idempotency key was made before cannot be found out now; try again.",
        code="idempotency_unavailable",
        headers={"retry-after": "1"},
    )
