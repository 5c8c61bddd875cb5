//! What Python calls. Pure functions over bytes: no memory but the caller's and the stack, no system call, no state.
//!
//! INVARIANT: what is accepted here, `interlock.ledger.proof.entry` reads with the same result. It may always be not sure.

const std = @import("std");
const entry = @import("entry.zig");
const lines = @import("lines.zig");
const merkle = @import("merkle.zig");
const Shape = @import("shape.zig").Shape;

/// Of the functions below and what their tables look like; `interlock.native` asks for the same.
const VERSION = 1;

/// A failed check ends the process: nothing is read or written where it must not be.
pub const panic = std.debug.no_panic;

/// Entries of one epoch: its first and last `n`, the earliest `at`, and how many lines stand before the one that has it.
const Run = extern struct { epoch: [16]u8, first: u64, last: u64, earliest: u64, place: u64 };

/// What `heads` found beside the runs.
const Found = extern struct { lines: u64, bytes: u64, in_range: u64, runs: u64 };

export fn interlock_native_version() u32 {
    return VERSION;
}

/// How many newlines there are.
export fn interlock_lines(data: [*]const u8, size: usize) usize {
    return lines.count(data[0..size]);
}

comptime {
    if (merkle.is_fast) @export(&roots, .{ .name = "interlock_roots" });
}

/// Hash each line of `data` as a leaf, the first of which has index `start`, below 2^63. Returns how many `roots` of
/// complete subtrees they make up, or -1 if there is no room for them.
fn roots(data: [*]const u8, size: usize, start: u64, made: [*]merkle.Root, room: usize) callconv(.c) i64 {
    const text = data[0..size];
    var range: merkle.Range = .{ .next = start, .roots = made[0..room] };
    var begin: usize = 0;
    while (lines.end(text, begin)) |end| {
        const leaf = text[begin..end];
        begin = end + 1;
        if (lines.end(text, begin)) |other_end| {
            const hashes = merkle.leafHashes(.{ leaf, text[begin..other_end] });
            begin = other_end + 1;
            if (!range.push(hashes[0]) or !range.push(hashes[1])) return -1;
        } else if (!range.push(merkle.leafHash(leaf))) return -1;
    }
    return @intCast(range.count);
}

/// Read the lines of `data` from `offset` on for as long as each is certainly an entry of `tree` that follows those of its
/// epoch before. Counts those that were admitted in [from, to), in Unix ns.
export fn interlock_heads(
    data: [*]const u8,
    size: usize,
    offset: usize,
    tree: [*]const u8,
    tree_size: usize,
    from: u64,
    to: u64,
    found: *Found,
    table: [*]Run,
    room: usize,
) void {
    const text = data[0..size][offset..];
    const runs = table[0..room];
    found.* = .{ .lines = 0, .bytes = 0, .in_range = 0, .runs = 0 };
    var reader: Reader = undefined;
    reader.begin(tree[0..tree_size]);
    var last: usize = 0;
    while (reader.next(text[found.bytes..])) |next| {
        const head, const bytes = next;
        const place = find(runs[0..found.runs], last, head.epoch);
        if (place == found.runs) {
            if (place == runs.len) return;
            runs[place] = .{
                .epoch = head.epoch,
                .first = head.n,
                .last = head.n,
                .earliest = head.at,
                .place = found.lines,
            };
            found.runs += 1;
        } else {
            const run = &runs[place];
            if (head.n != run.last + 1) return;
            run.last = head.n;
            if (head.at < run.earliest) {
                run.earliest = head.at;
                run.place = found.lines;
            }
        }
        last = place;
        found.in_range += @intFromBool(from <= head.at and head.at < to);
        found.lines += 1;
        found.bytes += bytes;
    }
}

/// Reads one entry after the other, and knows some shapes that they had: one of those with as many quotes.
const Reader = struct {
    tree: []const u8,
    quotes: lines.Quotes,
    shapes: [8]Shape,

    fn begin(self: *Reader, tree: []const u8) void {
        self.tree = tree;
        for (&self.shapes) |*shape| shape.whole = false;
    }

    /// The head of the entry that `text` begins with, and the size of its line. Null unless it is certain.
    fn next(self: *Reader, text: []const u8) ?struct { entry.Head, usize } {
        const line = lines.plain(text, &self.quotes) orelse return null;
        const shape = &self.shapes[self.quotes.count / 2 % self.shapes.len];
        const head = shape.read(line, &self.quotes, self.tree) orelse
            entry.read(line, &self.quotes, self.tree, shape) orelse return null;
        return .{ head, line.len };
    }
};

/// Where the run of an epoch is, or the number of runs; `guess` is looked at first.
fn find(runs: []const Run, guess: usize, epoch: [16]u8) usize {
    const wanted: u128 = @bitCast(epoch);
    if (guess < runs.len and @as(u128, @bitCast(runs[guess].epoch)) == wanted) return guess;
    for (runs, 0..) |*run, place| {
        if (@as(u128, @bitCast(run.epoch)) == wanted) return place;
    }
    return runs.len;
}
