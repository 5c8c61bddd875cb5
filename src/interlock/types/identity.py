"""Who asks: tenants, teams, principals, keys, and the limits and roles that hang on them."""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec


class DataClass(IntEnum):
    """How sensitive a call's content is. Ordered: a caller may raise the class of a call, never lower it."""

    public = 0
    internal = 1
    confidential = 2
    restricted = 3


class Recording(IntEnum):
    """What of a call is kept: all of it, all but the answer, or neither prompt nor answer. The strictest that anybody
    concerned asks for holds."""

    full = 0
    prompt_only = 1
    metadata = 2


class Workload(IntEnum):
    """How urgent a call is, most urgent first. A caller may make its call less urgent, never more by itself."""

    interactive = 0
    batch = 1
    background = 2


class Retention(msgspec.Struct, frozen=True, omit_defaults=True):
    """For how many days what was asked and answered is kept, 0: for ever. `by_data_class`: by the name of the class,
    where it is another number. `entries_days`: for the entries themselves."""

    contents_days: int = 0
    by_data_class: dict[str, int] = {}
    entries_days: int = 0

    def days(self, data_class: DataClass) -> int:
        """Days for which the contents of a call of this class are kept; 0: for ever."""
        return self.by_data_class.get(data_class.name, self.contents_days)


class PrincipalKind(StrEnum):
    """What kind of caller a principal is; an agent acts for a user only by delegation."""

    user = "user"
    service = "service"
    agent = "agent"


class Scope(StrEnum):
    """What a key may be used for. A key without `infer` cannot call a model."""

    infer = "infer"
    assert_user = "assert-user"
    admin = "admin"


class AdminRole(StrEnum):
    """Administrative roles, strongest first. They say nothing about inference: that is Cedar's part.

    The last allows nothing by itself: with `auditor`, it shows what people asked and were told.
    """

    owner = "owner"
    admin = "admin"
    auditor = "auditor"
    developer = "developer"
    viewer = "viewer"
    payload_reader = "payload_reader"


class LimitSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of one key, principal or team. None means: no limit of this kind at this level."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


class Judging(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model that judges answers for the learned router. `model`: a model or an alias. Shares are thousandths.

    `share_milli`: of chats, whose answer it scores. `control_milli`: of judged answers, also held against a question
    that they are no answer to. `challenger_milli`: of chats for which there was a choice of models, also sent to
    another of them; it says which answer is better.
    """

    model: str
    share_milli: int = 20
    challenger_milli: int = 0
    control_milli: int = 250


class Tenant(msgspec.Struct, frozen=True, omit_defaults=True):
    """An isolated customer or division. `time_zone` is an IANA name; budget months are counted in it."""

    id: str
    name: str
    time_zone: str = "UTC"
    active: bool = True
    recording: Recording = Recording.full
    retention: Retention | None = None
    policy_approval: bool = False
    """Whether a change of its policies needs a second person."""
    learning: str = "on"
    """ "on": the router decides by what it learns of the tenant's traffic; "observe": it learns, and priors decide;
    "off": nothing is learned."""
    learning_shares: bool = False
    """Whether figures of how good models were leave for other tenants that share theirs, and theirs count here."""
    judging: Judging | None = None
    """What judges its answers; None: nothing does."""


class Team(msgspec.Struct, frozen=True, omit_defaults=True):
    """A department inside a tenant: the unit that policies and cost reports speak of."""

    id: str
    tenant_id: str
    name: str
    cost_center: str = ""
    limits: LimitSet | None = None
    recording: Recording = Recording.full


class Principal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user, service or agent. `team_ids[0]` is the team whose limits and costs its calls count on."""

    id: str
    tenant_id: str
    kind: PrincipalKind
    name: str
    team_ids: tuple[str, ...] = ()
    limits: LimitSet | None = None
    may_act_for: tuple[str, ...] = ()
    """Principal ids (or "*" for anyone in the tenant) that this agent may be delegated by."""
    active: bool = True
    workload: Workload = Workload.interactive
    """Its calls are no more urgent than this."""


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker knows of an API key; the key itself is stored nowhere (HMAC-SHA256 with a pepper).

    `not_after_s` is Unix seconds (0: never). `data_class` is the default class of its calls.
    """

    id: str
    tenant_id: str
    principal_id: str
    scopes: tuple[str, ...] = ("infer",)
    not_after_s: int = 0
    data_class: DataClass = DataClass.internal
    limits: LimitSet | None = None
    revoked: bool = False
    cut: bool = False
    """With `revoked`: running calls of this key are cut off instead of finishing."""
    workload: Workload = Workload.interactive
    """Its calls are no more urgent than this."""


class SignIn(msgspec.Struct, frozen=True, omit_defaults=True):
    """How people sign in to the console at an issuer: as which of its clients (OpenID Connect Core, section 3.1).

    `secret_env`, `secret_file`: where the client's secret is found, never the secret; both "": a public client.
    """

    client_id: str
    secret_env: str = ""
    secret_file: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    label: str = ""
    """What the button says; "": the issuer's host."""
    end_session: bool = False
    """Signing out of the console signs out at the provider too, where that has an `end_session_endpoint`."""


BY_TOKEN = "jwt_"  # noqa: S105 - not a secret
"""What the id of a principal begins with that an issuer vouches for, and that nobody declares."""


class Issuer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JWT issuer a tenant trusts, and how its claims become a principal.

    `group_teams` maps a group name in `groups_claim` to a team id, `group_roles` to an administrative role in the
    issuer's own tenant (of the platform's tenant: over the installation), so that nobody is provisioned by hand.
    """

    id: str
    tenant_id: str
    issuer: str
    audience: str
    jwks_url: str
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    subject_claim: str = "sub"
    groups_claim: str = "groups"
    group_teams: dict[str, str] = {}
    kind: PrincipalKind = PrincipalKind.user
    data_class: DataClass = DataClass.internal
    group_roles: dict[str, AdminRole] = {}
    login: SignIn | None = None


class Caller(msgspec.Struct, frozen=True, omit_defaults=True):
    """An authenticated caller of one request: the principal, how it was proven, and for whom it acts.

    `auth_method` is one of "api_key", "jwt". `credential_id` is a key id or "issuer_id/jti-or-subject".
    """

    principal: Principal
    auth_method: str
    credential_id: str
    scopes: tuple[str, ...]
    data_class: DataClass
    key_limits: LimitSet | None = None
    delegator: Principal | None = None
    delegation: str = ""
    """"" (none), "asserted" (scope assert-user) or "token" (RFC 8693 act claim)."""
    not_after_s: int = 0
