"""What an operator sees of a running node: numbers, log lines, spans. None of them ever holds a payload.

`instruments` counts as cheaply as a dict allows. `metrics` is the catalogue: every family of this product, in one
class, with its help text and labels. A worker publishes its counts to a file; `exposition` sums the files of a node
into the text that Prometheus reads. `logs` writes JSON lines and strikes out whatever looks like a credential
(`redact`). `tracing` turns the figures of a finished call into OpenTelemetry spans, when a collector is configured (P9:
by default nothing leaves the machine); `log_records` are a ledger's entries in OpenTelemetry's form.
"""
