"""Domain values shared by every package: frozen, typed, without behaviour that does I/O.

Read them in this order: `clock` (time, passed in), `identity` and `apikey` (who asks), `source` (what can answer),
`model_names` (what a model's name gives away), `budget` (what may be used), `learned` and `quality` (what was learned),
`snapshot` (everything a worker knows), `request` and `slo` (what is asked), `decision` (what was decided and why),
`usage` (what it took), `record` (what is written down), `running` (what runs now), `feedback` (what is said of an
answer), `followed` (an entry as it is handed on), `alert` (who is told).
"""
