"""The stages of a call, in order: `authenticate`, `receive`, `resolve`, `authorize`, `admit`, `route`, `budget`,
`record`.

Each is a function that reads what the stages before it put into the `Call`, adds its own part, and raises an
`InterlockError` to refuse. None of them waits for anything. `labels` and `objectives` are read by resolve; `bar` sends
a call on that drew a canary which it cannot use.
"""
