"""authenticate: who is asking, and for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import BadRequest

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.identify import Authenticator


def authenticate(call: Call, authenticator: Authenticator) -> None:
    """Fill `call.identity`. Raises Unauthenticated, or Denied when a user is asserted without the right to."""
    headers = call.request.headers
    view = call.state.view
    identity = authenticator.identify(headers, view)
    asserted = headers.get(b"x-interlock-assert-user")
    if asserted is not None:
        # The credential is known from here on, so that a refusal below is recorded with it.
        call.identity = identity
        try:
            name = asserted.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("Header 'x-interlock-assert-user' is not UTF-8.") from None
        identity = authenticator.acting_for(identity, name, view)
    call.identity = identity
