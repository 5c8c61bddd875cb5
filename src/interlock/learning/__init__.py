"""What models do well, learned from outcomes: pure functions and plain values, on numpy, without I/O.

What a learner is made of, in order:

- `prompt`: a text becomes a `Prompt`: hashed words and pairs of words, and what its surface shows.
- `understanding`: what traffic teaches about prompts without any outcome: rare words, directions of meaning, tasks.
- `kin`: what a model is likely to do, by others of its price, size and family, before it has done anything.
- `tasks`: capability of each model for each task, with intervals: the first estimate, to be read by people.
- `linear`: capability as a linear function of a prompt, learned one outcome at a time: the second.
- `estimator`: both, and the simpler ones before them: what is expected of each model, from one outcome after the other.
- `judged`: what a judge's verdicts are worth as outcomes; `remembered`: the last outcomes, those laid aside among them.
- `trials`: how much of the traffic may try another model; `shared`: what tenants that share give each other.
- `trainer`: all of it for one tenant's traffic, and the state that is published of it; `quality`: what outcomes show.
- `published`: that state as integers: what gateways decide by.

`interlock.control.learning` feeds trainers from the ledger; the gateway reads a prompt and expects outcomes by
`published`, and the choice among candidates is `interlock.routing`'s.

Beside it:

- `offpolicy`: what other decisions would have brought, estimated from logged ones: `interlock route what-if`.
- `evaluation`: learning on public data: `interlock route eval`. For it alone are `choose`, a choice that explores
  within stated bounds, `learner`, which learns from its own choices, `fit` with `letters` and `sparse`: weights
  over everything a prompt shows, fitted to a log of outcomes, and `costs`: the same to what calls cost.

Nothing here reads a clock or makes random numbers of its own: a generator with a seed is an argument.
"""
