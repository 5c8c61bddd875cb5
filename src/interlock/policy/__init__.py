"""Who may send what where: Cedar policies, validated when written and decided at every call.

The story, file by file: `schema.cedarschema` is the vocabulary policies are written in; `text` reads policy text
without evaluating it (statements, positions, limits, quoting) and `canonical` writes it in one way; `schema` validates
what people write; `templates` writes the usual policies for them; `entities` puts tenants, teams and sources into
Cedar's terms; `slices` picks the policies that can concern one caller; `engine` decides, and remembers in a `cache`, by
cost and time as `measured` has them; `trial` decides beside it what only reports; `explain` says why, rule by rule;
`world` and `testfile` run a company's own expectations against a configuration.

Everything here is a pure function of its inputs. Deny is the default, a forbid always wins, and a policy that cannot
be evaluated denies.
"""
