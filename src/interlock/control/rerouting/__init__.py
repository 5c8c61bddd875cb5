"""What routing would do otherwise under a change, over calls that were really made.

change      what is asked: another configuration, mode, weights, bounds of trying others
deciding    one logged call: decided on its own snapshot, on what is stored now, and under the change
report      what is told of all of them
tally       counting what changed
figures     cost, latency, energy and quality, estimated
service     reading the ledger, for the admin API and the console
words       the report as text; plot: as a picture
"""
