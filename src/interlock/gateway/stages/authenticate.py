"""authenticate: who is asking, and for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import BadRequest

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.identify import Authenticator, Identity
    from interlock.gateway.snapshot import SnapshotView

ASSERT_USER = b"x-interlock-assert-user"


def authenticate(call: Call, authenticator: Authenticator) -> None:
    """Fill `call.identity`. Raises Unauthenticated, or Denied when a user is asserted without the right to."""
    headers = call.request.headers
    view = call.state.view
    identity = authenticator.identify(headers, view)
    asserted = headers.get(ASSERT_USER)
    if asserted is not None:
        # The credential is known from here on, so that a refusal below is recorded with it.
        call.identity = identity
        identity = _acting_for(identity, asserted, authenticator, view)
    call.identity = identity


def identity_of(headers: dict[bytes, bytes], view: SnapshotView, authenticator: Authenticator) -> Identity:
    """Who is asking, and for whom, where nothing is asked of a model. Raises as `authenticate`."""
    identity = authenticator.identify(headers, view)
    asserted = headers.get(ASSERT_USER)
    return identity if asserted is None else _acting_for(identity, asserted, authenticator, view)


def _acting_for(identity: Identity, asserted: bytes, authenticator: Authenticator, view: SnapshotView) -> Identity:
    try:
        name = asserted.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("Header 'x-interlock-assert-user' is not UTF-8.") from None
    return authenticator.acting_for(identity, name, view)
