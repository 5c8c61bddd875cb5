"""What is written down: the kinds of record in the log, in the order in which one call produces them.

    EpochOpen                     a worker starts
    Held                          the caller of a stream is told to wait, before anything is decided
    Intent                        a call was admitted and is about to be made (or was refused: Refusal)
      Attempt                     one try at one offer begins
      Chunk ...                   streamed text, before it is forwarded
      AttemptEnd                  that try failed before its first byte, and the next follows
      StepEnd                     of a cascade: that try answered, and its answer was checked
    Outcome                       how the call ended
    EnergyMeasured                some seconds later, where a meter measures the source: what it took
    Alive                         now and then: no call before this instant is missing here
    Feedback                      what somebody says of an answer, of a call of this epoch or of another one
    EpochClose                    the worker stopped in good order
    Interrupted                   written by a later epoch for an intent whose worker died

Records are msgpack arrays tagged with a small integer. Fields are only ever added, at the end, with a default.
`call` numbers the calls of one epoch; a request id is `req_<epoch>_<call in hex>`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.types.budget import Charge
from interlock.types.decision import Reason, RouteDecision, Tried
from interlock.types.request import Features, Target
from interlock.types.usage import Cost, Energy, Usage


class Work(msgspec.Struct, frozen=True, array_like=True):
    """What a call is a part of, in the caller's words: chunk `chunk` of the `chunks` that a document is cut into,
    in a batch. "" and -1: not said. A document's name may tell of people, so names are contents."""

    batch: str = ""
    document: str = ""
    chunk: int = -1
    chunks: int = -1


class Party(msgspec.Struct, frozen=True, array_like=True):
    """One side of a caller as policy saw it: who called, or the one it acted for.

    A bearer token's principal is in no snapshot: what policy may look at is here or nowhere.
    """

    id: str
    kind: str
    name: str
    team_ids: tuple[str, ...] = ()


class EpochOpen(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First record of an epoch. `wall_ns` Unix nanoseconds, `mono_ns` the monotonic clock at the same instant.

    `receipt_key`: the Ed25519 public key that its receipts are signed with, 32 bytes.
    """

    epoch: str
    node: str
    slot: int
    pid: int
    wall_ns: int
    mono_ns: int
    version: str
    durability: str = "local"
    receipt_key: bytes = b""


class Intent(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A call that was admitted: who, what, under which policy, and where it will go.

    `body` is the request body as the caller sent it, `body_sha256` stands for it where it is not kept; `parameters` are
    its small fields, decoded. `request_class` is the label that the caller, or else the alias, gave the call.
    `parties`: who called and, in a delegated call, whom it acts for. `charges`: the budgets that it counts on.
    `recording` (`identity.Recording`): under `metadata` there is neither a body nor a hash of one.
    `receipt`: the blinded commitment to the body that the caller was given a receipt of, hex, or "". `trials`: what
    policies that only report would have made of it. `shadow_of`: the request id of the call that this one is compared
    with; its caller sees nothing of it. Nor of what is asked of a judge: `judge_of` is the call whose answer is judged,
    `judge_against` the challenger that it is compared with, if it is; nor of a challenger: `challenger_of` is the call
    that it was sent besides.
    """

    call: int
    wall_ns: int
    mono_ns: int
    tenant_id: str
    team_id: str
    principal_id: str
    principal_kind: str
    delegator_id: str
    delegation: str
    auth_method: str
    credential_id: str
    dialect: str
    features: Features
    target: Target
    snapshot_version: int
    snapshot_root: bytes
    permits: tuple[Reason, ...]
    route: RouteDecision
    parameters: dict[str, Any]
    body_sha256: bytes
    body: bytes
    reserved_tokens: int
    trace_id: str = ""
    client_request_id: str = ""
    peer: str = ""
    request_class: str = ""
    parties: tuple[Party, ...] = ()
    charges: tuple[Charge, ...] = ()
    recording: int = 0
    receipt: str = ""
    work: Work | None = None
    trials: tuple[Tried, ...] = ()
    shadow_of: str = ""
    judge_of: str = ""
    judge_against: str = ""
    challenger_of: str = ""

    @property
    def unasked(self) -> bool:
        """Whether nobody asked for it: it is a shadow, a challenger, or a question to a judge."""
        return bool(self.shadow_of or self.judge_of or self.challenger_of)


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A call of an authenticated caller that was not made, and why.

    From `snapshot_root` on: what had been decided before it was refused, so that this can be decided again. `features`
    and `target` are None when it was refused before they were known, `route` before offers were ordered. `recording` as
    in an Intent; where the body may not be kept, there are no `words` that may quote it either. `receipt` as in an
    Intent.
    """

    call: int
    wall_ns: int
    tenant_id: str
    team_id: str
    principal_id: str
    delegator_id: str
    auth_method: str
    credential_id: str
    dialect: str
    operation: str
    asked: str
    data_class: int
    snapshot_version: int
    status: int
    code: str
    words: str
    reasons: tuple[Reason, ...] = ()
    body_sha256: bytes = b""
    trace_id: str = ""
    client_request_id: str = ""
    peer: str = ""
    parties: tuple[Party, ...] = ()
    snapshot_root: bytes = b""
    features: Features | None = None
    target: Target | None = None
    permits: tuple[Reason, ...] = ()
    route: RouteDecision | None = None
    seed: int = 0
    recording: int = 0
    receipt: str = ""
    work: Work | None = None
    trials: tuple[Tried, ...] = ()


class Attempt(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """One try at one offer. `number` counts from 0. `off_prem`: durable before its first byte went up.

    `reserved`: what the call costs there if nobody ever learns what it used (its worker dies, or the source is silent).
    `waited_ms`: how long the call had waited for a seat by then, of its first attempt on.
    """

    call: int
    number: int
    mono_ns: int
    source_id: str
    source: str
    model: str
    engine: str
    engine_version: str
    model_version: str
    off_prem: bool
    reserved: Cost = Cost()
    waited_ms: int = 0


class AttemptEnd(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A try that failed before its first byte and was followed by another (or by the call's failure)."""

    call: int
    number: int
    mono_ns: int
    code: str
    status: int
    words: str


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Streamed content of a call, written before it is forwarded.

    `parts`: for plain text deltas the text itself; for any other event its raw JSON in `raw`.
    """

    call: int
    index: int
    text: str = ""
    raw: bytes = b""


class Comparison(msgspec.Struct, frozen=True, array_like=True):
    """How a shadow's answer compares with the one that the caller got (`first`). Figures only, no content.

    `equal`: the same text but for case and white space; `similarity_milli`: see `interlock.gateway.compare`. Lengths in
    characters. JSON: whether each text is a JSON object or array, and whether both are the same value.
    """

    equal: bool
    similarity_milli: int
    first_chars: int
    chars: int
    first_json: bool
    json: bool
    json_equal: bool
    finish_equal: bool
    first_refused: bool
    refused: bool


class Judgement(msgspec.Struct, frozen=True, array_like=True):
    """What a judge said. Figures only, no content.

    `prompt`: version of what it was asked. `score_micro`: in [0, 1e6], -1: it was asked which answer is better.
    `preferred`: then "first" (the one that the caller got), "challenger" or "tie". `control`: the question was not the
    caller's but one that the answer has nothing to do with.
    """

    prompt: int
    score_micro: int = -1
    preferred: str = ""
    control: bool = False


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """How a call ended. Durable before the caller sees the end.

    `state`: "completed", "failed", "cut" (by us), "disconnected" (by the caller), "refused" (by every candidate).
    `body`: the answer of an unstreamed call (`body_sha256` stands for it where it is not kept). For a streamed one the
    text is in the chunks before, `chunks` of them, and `chunks_sha256` is over their text and raw bytes in order. Of an
    answer that is not kept there is neither text nor hash, and no `words`, which may quote it. Times in microseconds
    since the intent. `charged`: what each of the intent's budgets was charged, in their order. `compared`: of a shadow.
    `stop`: of a cascade, why no other step was tried: "passed", "last", "money", "time", or "failed" (the steps after
    it did). Its usage, cost and energy are those of all steps, and `attempt` is the one whose answer was given.
    `judged`: of a question to a judge that answered so that it can be read.
    """

    call: int
    mono_ns: int
    state: str
    status: int
    attempt: int
    source: str
    model: str
    served_model: str
    finish_reasons: tuple[str, ...]
    usage: Usage
    first_byte_us: int
    total_us: int
    chunks: int = 0
    chunks_sha256: bytes = b""
    body_sha256: bytes = b""
    body: bytes = b""
    code: str = ""
    words: str = ""
    bytes_sent: int = 0
    cost: Cost = Cost()
    energy: Energy = Energy()
    charged: tuple[int, ...] = ()
    compared: Comparison | None = None
    stop: str = ""
    judged: Judgement | None = None


class EpochClose(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Last record of an epoch that ended in good order. `last_seq` is the sequence number of the record before it."""

    epoch: str
    wall_ns: int
    last_seq: int


class Interrupted(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Found at recovery: a call of a dead epoch that had an intent and no outcome.

    `chunks`, `text_bytes`: how much streamed content had reached the log. `tail_lost` is true when the dead epoch's
    last record was torn, so that up to `stream_sync_ms` of content may be missing after a power loss. `cost`: what the
    attempt reserved.
    """

    epoch: str
    call: int
    wall_ns: int
    attempt: int
    chunks: int
    text_bytes: int
    reserved_tokens: int
    tail_lost: bool
    cost: Cost = Cost()


class EpochRecovered(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Written by the epoch that recovered a dead one: its last whole sequence number, how many calls it left open."""

    epoch: str
    wall_ns: int
    last_seq: int
    interrupted: int
    torn_bytes: int


class EnergyMeasured(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The energy of a call that ended before in this epoch, measured: microjoules, by `method`.

    It takes the place of the estimate in the Outcome. Written when the readings are in that it is made of.
    """

    call: int
    wall_ns: int
    uj: int
    method: str


class Alive(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A worker's word that every call it admitted before `wall_ns` is in its log by now. Written now and then.

    `calls`: every call of the epoch up to this number is in the log, or never will be; 0: nothing is said of that.
    """

    wall_ns: int
    calls: int = 0


class Feedback(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """What the caller of a call says of its answer. Durable before who says it is answered.

    `call` is this request's own number, `request` the id of the call that is judged. `subject`: whose data that call
    is, where that was known, else who says it. `thumb`: "up", "down" or ""; `score_micro`: in [0, 1e6], -1: none;
    `corrected`, `commented`: there was such a text, whether or not it is kept. `text` and `comment` are contents, ""
    where they may not be kept. `status`: what was answered, 200 when the call was known to be the caller's, else 202.
    """

    call: int
    wall_ns: int
    tenant_id: str
    team_id: str
    principal_id: str
    delegator_id: str
    auth_method: str
    credential_id: str
    request: str
    subject: str
    data_class: int
    recording: int
    status: int
    thumb: str = ""
    score_micro: int = -1
    corrected: bool = False
    commented: bool = False
    reason: str = ""
    text: str = ""
    comment: str = ""


class Held(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """A streamed call that waits for an engine to start, before anything is decided for it. Durable before its caller
    gets the head of a stream and comments. An Intent or a Refusal follows; neither, if its worker died meanwhile: then
    no call was made, and nothing is charged. `asked`: the model, as the caller named it."""

    call: int
    wall_ns: int
    tenant_id: str
    principal_id: str
    delegator_id: str
    asked: str


class StepEnd(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """A step of a cascade answered, or was stopped while it did. In the log before anything of a further step is.

    `attempt`: the try that it is of; `step`: from 0. `checks`: "name:verdict" of each check, the verdict "passed",
    "failed" or "unknown" (which is not passed); empty when the answer was not checked. `usage`, `cost`, `energy`: its
    own. `body`: an answer that was not given, where it may be kept. `code`: why it did not answer, "" when it did.
    """

    call: int
    attempt: int
    step: int
    mono_ns: int
    model: str
    passed: bool
    checks: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    usage: Usage
    cost: Cost
    energy: Energy
    body: bytes = b""
    code: str = ""


Record = (
    EpochOpen
    | Intent
    | Refusal
    | Attempt
    | AttemptEnd
    | Chunk
    | Outcome
    | EpochClose
    | Interrupted
    | EpochRecovered
    | EnergyMeasured
    | Alive
    | Feedback
    | Held
    | StepEnd
)


def request_id(epoch: str, call: int) -> str:
    """The id a caller sees: which epoch, which call of it. Reading it back finds the record without an index."""
    return f"req_{epoch}_{call:x}"


def parse_request_id(text: str) -> tuple[str, int]:
    """(epoch, call) of a request id. Raises ValueError when it is not one."""
    prefix, epoch, call = text.split("_")
    if prefix != "req" or not epoch.isalnum():
        raise ValueError(f"not a request id: {text!r}")
    return epoch, int(call, 16)
