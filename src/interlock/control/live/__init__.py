"""What happens now: the newest calls of the ledger and what nodes tell of their sources, as figures, once a second.

`window` keeps the calls of the last minutes, `figures` makes percentiles and rates of them, `states` says how sources
are and why they get no traffic, `feed` brings it all in while somebody watches, `hub` sends it to open pages.
"""
