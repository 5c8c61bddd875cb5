"""Learning on public data: `data` and `splits` are the folder and its divisions, `metrics` the measures, `baselines`
what learning is compared with; `run` is the run, `published` and `gateway` the same by what a gateway decides by,
`drift` how soon a change is noticed, `newcomers` how near expectations of new models come, and `report` and `plot` what
is told and drawn.
"""
