"""Ollama's own API, both ways: for clients that speak only it, and for its server as a model source.

`request` reads what clients ask into the pivot, and `answer` answers them; `question` says a checked request to a
server, and `speech` is what it says back. `lines` are the form of its streams.

Source: Ollama API reference (docs/api.md and the types of its Go package `api`), versions 0.5 to 0.13. Nothing here has
state beyond one request or one answer, and nothing does I/O.
"""
