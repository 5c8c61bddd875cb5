"""Fakes that ship with the product, for its own tests and for those of whoever builds on it. No model call can happen
by accident in a test that uses them.

`clock` stands still until told to move. `engine` is an HTTP server that answers as scripted, well or badly, and
remembers what it was sent: `script` is the vocabulary, `answers`, `messages` and `ollama` speak as engines do, `faults`
misbehave, `pages` are what engines have besides. `meter` counts energy as it is told. `simulator` behaves like an
inference engine under load: slots, a queue, a KV cache with prefixes, and the metrics of a real one; `fleet` puts nodes
before several of them, with `workloads`, in virtual time, and `plot` draws what came of it.
"""
