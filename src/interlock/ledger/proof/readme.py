"""The page that lies in each export, for people who have never heard of a Merkle tree."""

from __future__ import annotations

from interlock.ledger.proof.findings import instant


def readme(tree: str, cell: str, from_ns: int, to_ns: int) -> str:
    """The text of README.txt. Times in Unix ns."""
    return _PAGE.format(tree=tree, cell=cell, start=instant(from_ns), end=instant(to_ns))


_PAGE = """\
WHAT THIS FOLDER IS

The record of every call that the tenant {tree} made through Interlock (cell {cell})
from {start} up to, not including, {end}.
It can be checked by anyone, without access to the system it came from.

The system writes one entry for each call and hashes the entries, in order, into one
tree for each tenant. Every few moments it signs the root of the tree: a checkpoint. No
entry below a signed root can be changed, removed, added or moved without the root
becoming another one. A checkpoint also signs its coverage: which of the system's
logs (epochs) are in the tree, with how many entries each, and until when completely.

FILES

manifest.json     which tenant, which range of time, which entries (by index in the tree)
entries.jsonl     the entries, one a line. "at" is when the call was admitted, in
                  nanoseconds since 1970 (UTC); "epoch" and "n" number the calls of
                  each log without gaps
checkpoints/      <time>-<size>.note: a signed root, readable text.
                  <time>-<size>.coverage.json: the coverage that it signs
start.json        hashes that stand for the entries before the first one here
settled.jsonl     logs that ended, with the number of their entries
pruned.note       only if the oldest entries were kept for as long as the operator keeps
pruned.json       them: a signed statement of which lost their text, when and why, and
                  the hashes that stand for them
rotations.jsonl   changes of the signing key, each signed by the old and the new one, and the
                  checkpoint of this tree at that moment, signed by both
keys.txt          the public keys of the signatures, for convenience. Do not trust them
                  because they lie here: ask the operator by another way
contents/         only if asked for: what was said, still encrypted, one file each.
lists.jsonl       Entries hold the SHA-256 of each. lists.jsonl: which belong together
opened/           only if asked for: the same in plain text, <id>.txt for the "id" that an
opened.jsonl      entry names, of calls in the range. Nobody can have put other words
                  there: see 7. What a person had erased is not here; an entry of kind
                  "erasure" says so

HOW TO CHECK IT

    interlock ledger verify <this folder> --key '<the key you were given>'

If you kept checkpoints from earlier, pass them too: then a history that was rewritten
since, consistently and with valid signatures, is noticed as well.

By hand, in principle:
1. A checkpoint's signature is Ed25519, over the text above the blank line.
2. Its last line is the SHA-256, in base64, of the coverage file beside it.
3. The hash of an entry is SHA-256 of a zero byte and the line without its newline. Two
   hashes are joined as SHA-256 of a byte 1, the left and the right one. A tree of n
   entries splits at the largest power of two below n (RFC 9162, section 2.1).
4. The root over all entries is the third line of the last checkpoint; its second line
   is their number. start.json has the hashes of the subtrees before the first entry.
5. In each epoch, "n" counts up by one. The last "n" is that of the coverage, or of
   the epoch's line in settled.jsonl.
6. Every "watermark" and "registered" of the last coverage is at or after the end of
   the range: nothing admitted before can be missing.

7. An "id" in an entry is the SHA-256 of a secret number, the "salt", and the words
   themselves. opened.jsonl has the salt of each file in opened/: 32 bytes in hex, to be
   put before the bytes of the file. Other words with the same id cannot be found.

WHAT A VERDICT MEANS

complete      every entry admitted in the range is here, and each is as it was signed.
              "But for the pruned range": except the oldest, whose text was removed on
              purpose, as the signed statement says; their hashes are here
open tail     the same up to the instant named; calls after it may not be here yet.
              A later export closes the gap
not complete  what is here is as it was signed, but something is missing: a payload, the
              beginning of the range, records that a damaged disk lost, or those of
              a machine that never came back
altered       something here contradicts a signature, a hash or a count. The first
              problem says where

WHAT IT DOES NOT PROVE

- That the system admitted no call around its own log, or that what it wrote was true.
  It proves that what was written has not been changed or left out since.
- That the operator did not keep two histories, unless you compare checkpoints: keep
  some, or exchange them with others who audit the same tenant.
- The times: they are those of the system's clocks.
- The cell's name and the range in manifest.json: they only say what is asked.
- Who holds the key. It must reach you by a way that you trust.
"""
