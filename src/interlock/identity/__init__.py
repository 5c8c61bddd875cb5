"""Who is at the other end of a connection, and how we prove who we are: shared by gateway and control.

- `tokens`: JWT bearer tokens become callers, and administrators.
- `jwks`: issuers' public keys: fetched, kept as files, believed for a bounded time.
- `oidc`: people who sign in at an OpenID provider.
- `fetch`: small requests to addresses that are treated as hostile.
- `certificate`: a server's own certificate, taken again when its files change.
"""
