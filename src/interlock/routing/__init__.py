"""Where a call goes: pure functions from recorded inputs to an ordered list of candidates.

The story, in order:

- `catalog`: what one tenant can name: its models, its pins (`source::model`), its aliases.
- `resolve`: a model name, as a caller wrote it, becomes a `Target`.
- `constraints`: which offers cannot answer this request at all, and why.
- `score`: how well an offer suits a mode (`eco`, `balanced`, `quality`), in millionths.
- `choose`: filter, score, order by load, put saturated sources behind free ones: a `RouteDecision`.
- `explain`: that decision in words, as a response header, or as the error when nothing is left.
- `replay`: the decision made again from its record, and compared.

Nothing here reads a clock, a socket or a random generator: readings, breaker states and the seed are arguments,
and they are recorded, so that the same decision can be made again offline.
"""
