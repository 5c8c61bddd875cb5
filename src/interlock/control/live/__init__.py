"""What happens now: the newest calls of the ledger and what nodes tell of their sources, as figures, once a second.

`window` keeps the calls of the last minutes, `figures` makes percentiles and rates of them and `quality` signals of how
good answers are, `scores` what outcomes have shown of models, `states` says how sources are and why they get no
traffic, `running` which calls run, `view` puts it together, `feed` brings it all in while somebody watches, `hub` sends
it to open pages.
"""
