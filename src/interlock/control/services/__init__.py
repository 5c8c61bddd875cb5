"""The logic of each aggregate: a declared form becomes a stored value, and back.

`base` holds what they share: the transaction with its author, ids and names. Each other file has the same functions:

    spec_of    the stored value in the form in which it is declared
    create     ids and times are made here; storage stores them as they are, with the change record
    update     the declared form replaces what is stored
    delete     by name

Permissions are checked before, in `interlock.control.apply` and the routes; references and forms in `validate`.
"""
