"""Where a call goes: pure functions from recorded inputs to an ordered list of candidates.

The story, in order:

- `catalog`: what one tenant can name: its models, its pins (`source::model`), its aliases.
- `resolve`: a model name, as a caller wrote it, becomes a `Target`; `canary`: which way through an alias it takes.
- `constraints`: which offers cannot answer this request at all, and why.
- `score`: how well an offer suits a mode (`eco`, `balanced`, `quality`) or weights, in millionths; `load`: how busy a
  source is; `slo`: what a call is predicted to take there, against its objectives.
- `ranking`: offers by merit, as `rows`; `facts`: what decisions need of an offer whatever the request; `table`: of
  many models, by columns.
- `placement`: which of a model's replicas comes first; `explore`: now and then another model, to learn about it;
  `trials`: which ones may be tried.
- `choose`: filter, score, order by load, put saturated sources behind free ones: a `RouteDecision`; `steps`: of a
  cascade.
- `room`: how many calls a source may have before another one waits for its seat.
- `judged`: which calls are judged, and who is sent them besides.
- `explain`: that decision in words, as a response header, or as the error when nothing is left.
- `replay`: the decision made again from its record, and compared.

Nothing here reads a clock, a socket or a random generator: readings, breaker states and the seed (`draws`) are
arguments, and they are recorded, so that the same decision can be made again offline.
"""
