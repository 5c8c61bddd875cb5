//! The shape of an entry: its bytes without the text and the integers that are values. Most entries have the shape of one
//! just before, and what stands between their values is compared and not read again.
//!
//! INVARIANT: canonical JSON stays canonical when text that is a value becomes other text that needs no escape, or an
//! integer another that is written canonically. So what has the shape of an entry that was accepted is canonical.

const std = @import("std");
const entry = @import("entry.zig");
const Quotes = @import("lines.zig").Quotes;

const VALUES_MAX = 256;
const BLOCK = 32;

const Bytes = @Vector(BLOCK, u8);

pub const Kind = enum(u8) { text, integer };

/// A value, and the bytes of the line that stand between it and the value before it. Text is without its quotes.
const Value = struct { begin: u32, size: u32, kind: Kind, field: entry.Field };

pub const Shape = struct {
    line: []const u8,
    quotes: usize,
    values: [VALUES_MAX]Value,
    count: usize,
    rest: usize,
    /// Whether an entry was accepted, and this is all of it.
    whole: bool,

    pub fn begin(self: *Shape, line: []const u8, quotes: *const Quotes) void {
        self.line = line;
        self.quotes = quotes.count;
        self.count = 0;
        self.rest = 0;
        self.whole = false;
    }

    /// The value in [from, to).
    pub fn add(self: *Shape, kind: Kind, from: usize, to: usize, field: entry.Field) void {
        if (self.count < VALUES_MAX) {
            self.values[self.count] = .{
                .begin = @intCast(self.rest),
                .size = @intCast(from - self.rest),
                .kind = kind,
                .field = field,
            };
        }
        self.count += 1;
        self.rest = to;
    }

    pub fn end(self: *Shape) void {
        self.whole = self.count <= VALUES_MAX;
    }

    /// As `entry.read`, and null if the line has another shape.
    pub fn read(self: *const Shape, line: []const u8, quotes: *const Quotes, tree: []const u8) ?entry.Head {
        if (!self.whole or quotes.count != self.quotes) return null;
        var known: entry.Known = .{};
        var at: usize = 0;
        for (self.values[0..self.count]) |value| {
            if (!isSame(self.line, value.begin, line, at, value.size)) return null;
            at += value.size;
            switch (value.kind) {
                .text => {
                    const close = quotes.next(at) orelse return null;
                    if (value.field != .other and !known.text(value.field, line[at..close], tree)) return null;
                    at = close;
                },
                .integer => {
                    const found = entry.integer(line, at) orelse return null;
                    if (value.field != .other and !known.integer(value.field, found.amount)) return null;
                    at = found.end;
                },
            }
        }
        return if (std.mem.eql(u8, self.line[self.rest..], line[at..])) known.whole() else null;
    }
};

/// Whether `size` bytes of both are there and are the same.
inline fn isSame(one: []const u8, one_at: usize, other: []const u8, other_at: usize, size: usize) bool {
    var done: usize = 0;
    while (done < size) : (done += BLOCK) {
        const a, const b = .{ one_at + done, other_at + done };
        const left = size - done;
        if (a + BLOCK > one.len or b + BLOCK > other.len) {
            return a + left <= one.len and b + left <= other.len and
                std.mem.eql(u8, one[a..][0..left], other[b..][0..left]);
        }
        const same = @as(Bytes, one[a..][0..BLOCK].*) == @as(Bytes, other[b..][0..BLOCK].*);
        const first_other = @ctz(~@as(u32, @bitCast(same)));
        if (first_other < @min(left, BLOCK)) return false;
    }
    return true;
}
