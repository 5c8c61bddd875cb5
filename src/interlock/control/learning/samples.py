"""From ledger entries to what is learned of: calls that ended, and outcomes with the prompts that they are of.

Prompts are decrypted under their subjects' keys in memory, become hashed words, and are not kept. Of a call whose
content was erased or never kept an outcome counts without a prompt. Signals that need nobody's word: an answer that had
to be JSON and is or is not, a refusal by the model, and the same prompt asked again by the same person within minutes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection

from interlock.control.services.ledger import key_name
from interlock.learning.judged import CONTROL, PREFERENCE, SCORE, Verdict
from interlock.learning.prompt import Prompt, read
from interlock.learning.trainer import Outcome, Told
from interlock.ledger.vault import SubjectKey, VaultError
from interlock.settings import Settings
from interlock.storage import ledger_read
from interlock.storage.ledger_keys import Erased, LedgerKeys
from interlock.types.learned import arm_named
from interlock.wire.asked import asked_text

AGAIN_NS = 600 * 1_000_000_000
"""The same prompt from the same person within ten minutes says that the answer was not good enough."""
AGAIN_REWARD = 0.2
ASKED_KEPT = 4096
"""Prompts of a tenant, by their keyed names, that are remembered to be recognised."""
USER_BACK_MAX = 16
"""Messages from the last one on in which the user's last is looked for."""
FAILED = frozenset(("failed",))
_raw = msgspec.json.Decoder()


class Asked(NamedTuple):
    """A call that may be asked again."""

    at_ns: int
    request: str
    arm: str
    leaf: dict[str, Any]


class Samples:
    """Reads the entries of one tenant in their order."""

    def __init__(self, tenant_id: str, keys: LedgerKeys, settings: Settings) -> None:
        self._tenant_id = tenant_id
        self._keys = keys
        self._settings = settings
        self._asked: OrderedDict[tuple[str, str], Asked] = OrderedDict()

    def of_call(self, conn: Connection[Any], leaf: dict[str, Any]) -> tuple[Told | None, list[Outcome]]:
        """A call that ended and reached a source, and the outcomes that it tells of by itself."""
        if leaf["kind"] != "call" or beside(leaf) or not leaf["where"]["model"]:
            return None, []
        told = told_of(leaf)
        outcomes = [*self._again(conn, leaf, told), *(placed(own, leaf) for own in self._own(conn, leaf, told))]
        return told, outcomes

    def of_feedback(
        self, conn: Connection[Any], request: str, model: str, version: str, reward_micro: int
    ) -> Outcome | None:
        """What somebody said of a call. None when the call is not there any more."""
        leaf = self._call(conn, request)
        if leaf is None:
            return None
        prompt = self.prompt(conn, leaf)
        arm, reward = arm_named(model, version), reward_micro / 1_000_000
        return placed(Outcome(arm, reward, "feedback", prompt, request=request), leaf)

    def verdict(self, conn: Connection[Any], leaf: dict[str, Any]) -> Verdict | None:
        """What a judge said in this entry, None for another one. Of a call that is not there any more, nothing."""
        said = leaf["result"].get("judged") if "judge_of" in leaf else None
        if said is None:
            return None
        of = self._call(conn, leaf["judge_of"])
        against = self._call(conn, leaf["judge_against"]) if "judge_against" in leaf else None
        if of is None or ("judge_against" in leaf and against is None):
            return None
        by, arm = arm_named(leaf["where"]["model"], leaf["where"]["version"]), _arm(of)
        if against is not None:
            what, worth, about = PREFERENCE, _WON[said["preferred"]], _arm(against)
        else:
            what, worth, about = CONTROL if said["control"] else SCORE, said["score_micro"] / 1_000_000, arm
        return Verdict(
            what,
            by,
            about,
            worth,
            None if what == CONTROL else self.prompt(conn, of),
            of["request"],
            arm if what == PREFERENCE else "",
            of["who"]["team"],
            of["at"],
        )

    def _call(self, conn: Connection[Any], request: str) -> dict[str, Any] | None:
        for entry in ledger_read.of_request(conn, self._tenant_id, request):
            if entry.kind == "call":
                leaf: dict[str, Any] = _raw.decode(entry.leaf)
                return leaf
        return None

    def prompt(self, conn: Connection[Any], leaf: dict[str, Any]) -> Prompt | None:
        """What was asked in a call, as the learner sees it; None when that is not there."""
        key = self._key(conn, leaf)
        if key is None:
            return None
        subject = key_name(leaf)
        for each in leaf["contents"]:
            if each["role"] not in ("messages", "input", "prompt"):
                continue
            names = (
                ledger_read.list_items(conn, self._tenant_id, subject, bytes.fromhex(each["list"]))
                if "list" in each
                else [bytes.fromhex(each["id"])]
            )
            text = self._text(conn, key, subject, each["role"], names, "list" in each)
            if text:
                return read(text)
        return None

    def _text(
        self, conn: Connection[Any], key: SubjectKey, subject: str, role: str, names: list[bytes], items: bool
    ) -> str:
        if not items:
            value = self._opened(conn, key, subject, names[0])
            return asked_text({role: value}) if value is not None else ""
        for name in list(reversed(names))[:USER_BACK_MAX]:
            value = self._opened(conn, key, subject, name)
            if value is not None:
                text = asked_text({role: [value]})
                if text:
                    return text
        return ""

    def _opened(self, conn: Connection[Any], key: SubjectKey, subject: str, name: bytes) -> Any:
        """A content as JSON, or as text where it is none; None when it is gone."""
        data = ledger_read.content(conn, self._tenant_id, subject, name)
        if data is None:
            return None
        try:
            plain = key.open(name, data, bytes_max=self._settings.record_bytes_max)
        except VaultError:
            return None
        try:
            return _raw.decode(plain)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None

    def _key(self, conn: Connection[Any], leaf: dict[str, Any]) -> SubjectKey | None:
        if not leaf["contents"] or leaf.get("erased"):
            return None
        try:
            return self._keys.named(conn, self._tenant_id, key_name(leaf))
        except (Erased, VaultError):
            return None

    def _again(self, conn: Connection[Any], leaf: dict[str, Any], told: Told) -> Iterable[Outcome]:
        """The answer before, where this is the same prompt of the same person once more."""
        name = next((each.get("list") or each["id"] for each in leaf["contents"] if each["role"] in _PROMPTS), None)
        if name is None or told.failed:
            return
        asked = (leaf["who"]["subject"], name)
        before = self._asked.pop(asked, None)
        self._asked[asked] = Asked(leaf["at"], leaf["request"], told.arm, leaf)
        if len(self._asked) > ASKED_KEPT:
            self._asked.popitem(last=False)
        if before is not None and 0 <= leaf["at"] - before.at_ns <= AGAIN_NS:
            again = Outcome(before.arm, AGAIN_REWARD, "retry", self.prompt(conn, before.leaf))
            yield placed(again, before.leaf)

    def _own(self, conn: Connection[Any], leaf: dict[str, Any], told: Told) -> Iterable[Outcome]:
        """What the answer itself shows, or what was found of it when it was checked before it was given."""
        verdicts = list(verdicts_of(leaf))
        if verdicts:
            prompt = self.prompt(conn, leaf)
            for arm, passed in verdicts:
                yield Outcome(arm, float(passed), "validation", prompt)  # of a step, and not of the call's answer
            return
        if leaf["result"]["state"] != "completed":
            return
        finish = leaf["result"]["finish"]
        if "content_filter" in finish or "refusal" in finish:
            yield Outcome(told.arm, 0.0, "refusal", self.prompt(conn, leaf))
            return
        if leaf["what"]["operation"] != "chat" or "length" in finish:
            return
        valid = self._as_asked(conn, leaf)
        if valid is not None:
            prompt = self.prompt(conn, leaf)
            yield Outcome(told.arm, float(valid), "validation", prompt, request=leaf["request"])

    def _as_asked(self, conn: Connection[Any], leaf: dict[str, Any]) -> bool | None:
        """Whether an answer that had to be JSON is JSON; None where it had not to, or cannot be known."""
        roles = {each["role"]: each for each in leaf["contents"] if "id" in each}
        if "response_format" not in roles or not roles.keys() & {"answer", "stream"}:
            return None
        key = self._key(conn, leaf)
        if key is None:
            return None
        subject = key_name(leaf)
        asked = self._opened(conn, key, subject, bytes.fromhex(roles["response_format"]["id"]))
        if not isinstance(asked, dict) or asked.get("type") not in ("json_object", "json_schema"):
            return None
        text = answer_text(
            self._opened(conn, key, subject, bytes.fromhex((roles.get("answer") or roles["stream"])["id"]))
        )
        if text is None:
            return None
        try:
            return isinstance(_raw.decode(text.encode()), dict)
        except (msgspec.MsgspecError, RecursionError):
            return False


def placed(outcome: Outcome, leaf: dict[str, Any]) -> Outcome:
    """The outcome with the team, the time, the source and the name of the call that it is of. Where several steps
    answered, or another model than the one that the call ended at, the source is not sure."""
    where, steps = leaf["where"], leaf.get("cascade", {}).get("tried", ())
    sure = len(steps) < 2 and outcome.arm == arm_named(where["model"], where["version"])
    source = where["source"] if sure else ""
    return outcome._replace(team=leaf["who"]["team"], at_ns=leaf["at"], source=source, call=leaf["request"])


_PROMPTS = ("messages", "input", "prompt")
_BESIDE = frozenset(("shadow_of", "judge_of", "challenger_of"))
_WON = {"challenger": 1.0, "first": -1.0, "tie": 0.0}
"""What a preference is worth to the challenger."""


def beside(leaf: dict[str, Any]) -> bool:
    """Whether an entry is of a call that nobody made: a shadow, a challenger, or what a judge was asked."""
    return not _BESIDE.isdisjoint(leaf)


def _arm(leaf: dict[str, Any]) -> str:
    return arm_named(leaf["where"]["model"], leaf["where"]["version"])


def verdicts_of(leaf: dict[str, Any]) -> Iterable[tuple[str, bool]]:
    """(arm, passed) of each step of a cascade whose answer was checked, and found to pass or not to."""
    for step in leaf.get("cascade", {}).get("tried", ()):
        found = {each.partition(":")[2] for each in step["checks"]}
        if "failed" in found or found == {"passed"}:
            yield arm_named(step["model"], step["version"]), "failed" not in found


def _given(leaf: dict[str, Any]) -> dict[str, Any]:
    """The leaf with the figures of the step whose answer was given, in place of those of all steps. What the steps
    before took of the time is no time of its own: of a cascade that tried several, times are not known."""
    tried = leaf.get("cascade", {}).get("tried", ())
    for step in tried:
        if step["given"]:
            times = leaf["times"] if len(tried) == 1 else {"first_us": 0, "total_us": 0}
            return leaf | {name: step[name] for name in ("tokens", "cost", "energy")} | {"times": times}
    return leaf


def told_of(leaf: dict[str, Any]) -> Told:
    """What became of a call, from its entry."""
    leaf = _given(leaf)
    where, result, times, tokens = leaf["where"], leaf["result"], leaf["times"], leaf["tokens"]
    known = tokens["origin"] != "reserved"
    completion = tokens["completion"] if known else 0
    after_first = times["total_us"] - times["first_us"]
    return Told(
        f"{where['name']}::{where['model']}",
        arm_named(where["model"], where["version"]),
        result["state"] in FAILED,
        times["first_us"] if times["first_us"] > 0 else -1,
        after_first // completion if completion > 1 and leaf["what"]["stream"] and after_first > 0 else -1,
        completion,
        leaf["cost"]["nusd"] if leaf["cost"]["price"] != "none" and known else -1,
        leaf["energy"]["uj"] if leaf["energy"]["method"] else -1,
        leaf["decided"]["router"] > 0,
        bool(leaf["decided"].get("tried")),
    )


def answer_text(answer: Any) -> str | None:
    """The text of an answer: of a body in OpenAI's form, or of the parts of a stream. None for another form."""
    if isinstance(answer, list):
        return "".join(part for part in answer if isinstance(part, str))
    if isinstance(answer, dict):
        choices = answer.get("choices")
        if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
            message = choices[0].get("message")
            if isinstance(message, dict) and isinstance(message.get("content"), str):
                text: str = message["content"]
                return text
    return None
