"""The native part: pure functions over bytes for what costs most, in Zig. Everything works without it, only slower.

`library`  which file fits this machine, and whether it can be had
`scan`     its functions, typed

The source is beside them: `native.zig` is what Python calls, `lines.zig` finds lines and quotes, `entry.zig` reads an
entry, `shape.zig` one that is like another, `merkle.zig` and `sha256.zig` hash. `scripts/native.py` compiles it into
`lib/`. It has no memory of its own, makes no system call, and knows no key. It imports nothing of Interlock.
"""
