"""The data plane: one request's way from the socket to a model source and back, recorded.

`pipeline` lists the stages in order; each is a file in `stages/`. `call` is what they fill in, `run` is a call in
progress at a source (attempts, failover, streaming), `state` is one snapshot made usable, `runtime` is what a worker
owns. `worker` is the process that serves; `node` is its parent, which follows the snapshot and watches the sources.
"""
