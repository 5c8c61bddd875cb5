"""Model sources: how the gateway reaches an engine, what an engine can do, and how busy it is.

A call's way out, and the file of each step:

    requests      the head of the request, built from a prefix that is made once per source and path
    credentials   the secret in that head: a reference to a file or environment variable, re-read on rotation
    transport     a pool of HTTP/1.1 connections per source and worker: takes one, writes, enforces the time-outs
    connection    one connection: what llhttp parses becomes callbacks, with the rules a response must keep
    dial          how a connection is opened: TCP, an egress proxy's CONNECT tunnel, TLS
    tls           TLS contexts from an own CA and client certificate, made again when the files change

What is known about a source, off the hot path:

    fields        the request fields each kind of source understands
    discovery     models, context lengths, versions and abilities, asked of the engine itself; ollama: of its server
    load          queue depth and KV-cache use read from the engine's metrics, and its health
    stay          how long calls stay there
    meters        what the devices under an engine have used in energy
    fetch         one small request over a pool, bounded in time and size
    client        the same for callers without an event loop, as discovery is

What a node's workers share, in memory:

    board         load, calls in flight, breakers, the snapshot's age
    seats         who is next for a seat at a full source
"""
