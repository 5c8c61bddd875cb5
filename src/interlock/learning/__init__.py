"""What models do well, learned from outcomes: pure functions and plain values, on numpy, without I/O.

The story, in order:

- `prompt`: a text becomes a `Prompt`: hashed words and pairs of words, and what its surface shows.
- `understanding`: what traffic teaches about prompts without any outcome: rare words, directions of meaning, tasks.
- `tasks`: capability of each model for each task, with intervals: the first estimate, to be read by people.
- `linear`: capability as a linear function of a prompt, learned one outcome at a time: the second.
- `fit`: weights over everything a prompt shows, fitted to a log of outcomes: for learning offline.
- `choose`: worth of each candidate, and a choice that explores within stated bounds, with its probability.
- `learner`: the online learner made of these: it chooses, sees the outcome of its own choice, and learns.
- `evaluation`: all of it on public data: `interlock route eval`.

Only `interlock route eval` uses this package so far: the gateway decides as `interlock.routing` says.
Nothing here reads a clock or makes random numbers of its own: a generator with a seed is an argument.
"""
