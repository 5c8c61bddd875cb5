"""Alerts: what is read, what is decided, who is told.

`figures` reads what the control plane knows, `readings` makes of it what a rule looks at, `evaluate` decides (both
pure), `watch` does so again and again in one process at a time and writes state and events together, `sender` brings
events to channels by `webhook` and `mail`, in the `words` for them; `address` seals where a webhook is. `service` is
what administrators do; `shown` what they see.
"""
