"""The long proofs: real processes, real kills, real clocks. `make prove` runs them and writes the evidence.

    python -m tests.prove [kill limits snapshot mutants] [--rounds N] [--seed S] [--out DIR]

`kill`      `kill -9` at random points under load: what clients received against what the record log holds.
`limits`    over four worker processes, one of which is killed, no limit is exceeded in any window.
`snapshot`  100,000 keys: how soon a revocation is seen by every worker; PostgreSQL stopped, allowed traffic goes on.
`mutants`   every committed mutant is noticed by the tests that guard its promise.

Parts: `script` says what a marker's answer is, for engine and judge alike; `engine` gives these answers, in a process
of its own; `node` and `worker` are the real ones, which also note what the disk has taken; `gateway` starts and kills
them; `client` notes every byte; `books` reads the log; `judge` compares; `evidence` writes down what was found.
"""
