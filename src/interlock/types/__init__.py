"""Domain values shared by every package: frozen, typed, without behaviour that does I/O.

Read them in this order: `identity` (who asks), `source` (what can answer), `snapshot` (everything
a worker knows), `request` (what is asked), `decision` (what was decided and why), `usage` (what it
took), `record` (what is written down).
"""
