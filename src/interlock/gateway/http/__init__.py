"""HTTP in: a parsed `Request` goes in, a `Sink` takes the answer; the stages see neither sockets nor ASGI.

`exchange` holds those two shapes; `protocol` is the server on llhttp, `rules` what it holds requests to, `heads` how it
knows one again; `asgi` puts the same application under any ASGI server, and `fallback` runs uvicorn with it (setting
`gateway_server = "uvicorn"`).
"""
