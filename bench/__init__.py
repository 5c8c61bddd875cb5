"""`make bench`: what the gateway costs, beside a bare nginx reverse proxy in the same run.

`run` conducts: it starts a mock engine (`engine`), a load generator (`load`) and the subjects (`subjects`: nginx, a
bare asyncio probe, the gateway), each in processes of its own, and measures in alternating rounds (`measure`), so that
a slow minute of the machine falls on all of them. `procs` reads CPU time and memory from /proc. The subject has one
core to itself, all others share the other. `report` writes `bench/results.json` and the table for people.
"""
