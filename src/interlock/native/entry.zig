//! Lines that are certainly the canonical JSON of an entry: keys in strictly ascending order, no blanks, integers only,
//! text that needs no escape. Of anything else nothing is said.

const std = @import("std");
const Quotes = @import("lines.zig").Quotes;
const Shape = @import("shape.zig").Shape;

const DEPTH_MAX = 16;
const EPOCH_CHARS = 16;
const INT_MAX: u64 = std.math.maxInt(i64);

/// What an entry says of itself that is held against other entries.
pub const Head = struct { epoch: [EPOCH_CHARS]u8 = @splat(0), n: u64 = 0, at: u64 = 0 };

/// The first bytes of a key as a number that sorts as they do: behind a shorter key there are zeros.
inline fn sortable(line: []const u8, begin: usize, end: usize) u64 {
    const size = end - begin;
    if (begin + 8 <= line.len) {
        const first = std.mem.readInt(u64, line[begin..][0..8], .big);
        return if (size >= 8) first else first & ~(@as(u64, std.math.maxInt(u64)) >> @intCast(8 * size));
    }
    var first: u64 = 0;
    for (begin..begin + 8) |at| first = first << 8 | if (at < end) line[at] else 0;
    return first;
}

/// The last key of an object so far.
const Key = struct { first: u64, begin: usize, end: usize };
const NO_KEY: Key = .{ .first = 0, .begin = 0, .end = 0 };

pub const Field = enum(u3) { at, epoch, kind, n, tree, v, other };
const ALL_FIELDS: u8 = (1 << @intFromEnum(Field.other)) - 1;

fn number(comptime name: []const u8) u64 {
    return sortable(name, 0, name.len);
}

inline fn fieldOf(first: u64) Field {
    return switch (first) {
        number("at") => .at,
        number("epoch") => .epoch,
        number("kind") => .kind,
        number("n") => .n,
        number("tree") => .tree,
        number("v") => .v,
        else => .other,
    };
}

/// What is known of an entry so far.
pub const Known = struct {
    head: Head = .{},
    fields: u8 = 0,

    pub fn text(self: *Known, field: Field, value: []const u8, tree: []const u8) bool {
        switch (field) {
            .epoch => {
                if (value.len != EPOCH_CHARS) return false;
                self.head.epoch = value[0..EPOCH_CHARS].*;
            },
            .kind => if (std.mem.eql(u8, value, "erasure")) return false,
            .tree => if (!std.mem.eql(u8, value, tree)) return false,
            .at, .n, .v, .other => return false,
        }
        self.fields |= @as(u8, 1) << @intFromEnum(field);
        return true;
    }

    pub fn integer(self: *Known, field: Field, value: u64) bool {
        switch (field) {
            .at => self.head.at = value,
            .n => {
                if (value == 0) return false;
                self.head.n = value;
            },
            .v => if (value != 1) return false,
            .epoch, .kind, .tree, .other => return false,
        }
        self.fields |= @as(u8, 1) << @intFromEnum(field);
        return true;
    }

    /// Null unless each field was there.
    pub fn whole(self: *const Known) ?Head {
        return if (self.fields == ALL_FIELDS) self.head else null;
    }
};

const Integer = struct { amount: u64, end: usize };

/// The integer of 64 bits that begins here, without its sign; no zero stands before it.
pub inline fn integer(line: []const u8, begin: usize) ?Integer {
    var at = begin;
    var amount: u64 = 0;
    while (line[at] -% '0' < 10) : (at += 1) {
        if (at - begin == 19) return null;
        amount = amount *% 10 +% (line[at] -% '0'); // 19 digits are below 2^64
    }
    if (at == begin or (line[begin] == '0' and at - begin > 1) or amount > INT_MAX) return null;
    return .{ .amount = amount, .end = at };
}

/// What follows in a line.
const Next = enum { key, value, end_of_value };

/// The head of an entry, which is a line with its newline. Null unless it is certainly canonical and of `tree`. Then
/// `shape` is its shape.
///
/// INVARIANT: `at` stays on the line or on its newline: each step is over bytes that were looked at, and none is over
/// the newline.
pub noinline fn read(line: []const u8, quotes: *const Quotes, tree: []const u8, shape: *Shape) ?Head {
    shape.begin(line, quotes);
    if (line[0] != '{') return null;
    var known: Known = .{};
    var at: usize = 1;
    var depth: usize = 1;
    var objects: u32 = 1 << 1; // which depths are objects; all else are lists
    var keys: [DEPTH_MAX + 1]Key = undefined;
    keys[1] = NO_KEY;
    var field: Field = .other;
    state: switch (Next.key) {
        .key => {
            if (line[at] != '"') return null;
            const begin = at + 1;
            const end = quotes.next(begin) orelse return null;
            const first = sortable(line, begin, end);
            const before = &keys[depth];
            if (first <= before.first and
                std.mem.order(u8, line[before.begin..before.end], line[begin..end]) != .lt) return null;
            before.* = .{ .first = first, .begin = begin, .end = end };
            if (line[end + 1] != ':') return null;
            at = end + 2;
            if (depth == 1) field = fieldOf(first);
            continue :state .value;
        },
        .value => {
            const first = line[at];
            switch (first) {
                '"' => {
                    const end = quotes.next(at + 1) orelse return null;
                    shape.add(.text, at + 1, end, field);
                    if (field != .other) {
                        if (!known.text(field, line[at + 1 .. end], tree)) return null;
                    }
                    at = end + 1;
                },
                '0'...'9' => {
                    const found = integer(line, at) orelse return null;
                    shape.add(.integer, at, found.end, field);
                    if (field != .other) {
                        if (!known.integer(field, found.amount)) return null;
                    }
                    at = found.end;
                },
                '{', '[' => {
                    if (field != .other or depth == DEPTH_MAX) return null;
                    at += 1;
                    if (line[at] == first + 2) { // its closing bracket
                        at += 1;
                        continue :state .end_of_value;
                    }
                    depth += 1;
                    const here = @as(u32, 1) << @intCast(depth);
                    if (first == '{') {
                        objects |= here;
                        keys[depth] = NO_KEY;
                        continue :state .key;
                    }
                    objects &= ~here;
                    continue :state .value;
                },
                '-' => {
                    const found = integer(line, at + 1) orelse return null;
                    if (field != .other or found.amount == 0) return null;
                    at = found.end;
                },
                't' => at = word(line, at, field, "true") orelse return null,
                'f' => at = word(line, at, field, "false") orelse return null,
                'n' => at = word(line, at, field, "null") orelse return null,
                else => return null,
            }
            continue :state .end_of_value;
        },
        .end_of_value => {
            field = .other;
            const in_object = objects >> @intCast(depth) & 1 == 1;
            const byte = line[at];
            at += 1;
            if (byte == ',') {
                if (in_object) continue :state .key;
                continue :state .value;
            }
            if (byte != @as(u8, if (in_object) '}' else ']')) return null;
            depth -= 1;
            if (depth > 0) continue :state .end_of_value;
        },
    }
    if (at != line.len - 1) return null;
    const head = known.whole() orelse return null;
    shape.end();
    return head;
}

/// Where a word of JSON ends that must be here.
inline fn word(line: []const u8, at: usize, field: Field, comptime expected: []const u8) ?usize {
    if (field != .other or !std.mem.startsWith(u8, line[at..], expected)) return null;
    return at + expected.len;
}
