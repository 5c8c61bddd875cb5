//! Lines of which each byte is printable ASCII and no backslash, and where their quotes are.

const std = @import("std");

const QUOTES_MAX = 4096;
const LINE_BYTES_MAX = 1 << 20;
const BLOCK = 64;
/// How many quotes are noted at a time: most blocks have fewer.
const NOTE = 12;

const Bytes = @Vector(BLOCK, u8);
const Signed = @Vector(BLOCK, i8);

/// Where the quotes of a line are, from its beginning. What is noted too much stands behind them, and is written over.
///
/// INVARIANT: behind the last there are two that are at no place of a line.
pub const Quotes = struct {
    places: [QUOTES_MAX + 2 * BLOCK]u32,
    count: usize,

    /// Note the set bits of `mask`, which stand for bytes from `base` on.
    inline fn note(self: *Quotes, base: u32, mask: u64) void {
        const more = @popCount(mask);
        const room = self.places[self.count..][0 .. BLOCK + NOTE];
        var left = mask;
        var done: usize = 0;
        while (true) {
            inline for (0..NOTE) |at| {
                room[done + at] = base +% @ctz(left);
                left &= left -% 1;
            }
            done += NOTE;
            if (done >= more) break;
        }
        self.count += more;
    }
};

/// The bytes of `data` from `begin` on, and newlines where there are none left.
inline fn load(data: []const u8, begin: usize) Bytes {
    if (begin + BLOCK <= data.len) return data[begin..][0..BLOCK].*;
    var padded: [BLOCK]u8 = @splat('\n');
    @memcpy(padded[0 .. data.len - begin], data[begin..]);
    return padded;
}

const newlines: Bytes = @splat('\n');

inline fn bits(these: @Vector(BLOCK, bool)) u64 {
    return @bitCast(these);
}

/// Where the newline is that ends the line from `begin` on; null if there is none.
pub fn end(data: []const u8, begin: usize) ?usize {
    var at = begin;
    while (at < data.len) : (at += BLOCK) {
        const found = bits(load(data, at) == newlines);
        if (found != 0) {
            const place = at + @ctz(found);
            return if (place < data.len) place else null;
        }
    }
    return null;
}

/// How many newlines there are.
pub fn count(data: []const u8) usize {
    var found: usize = 0;
    var at: usize = 0;
    while (at + BLOCK <= data.len) : (at += BLOCK) {
        found += @popCount(bits(load(data, at) == newlines));
    }
    for (data[at..]) |each| found += @intFromBool(each == '\n');
    return found;
}

/// The line that `data` begins with, and its newline; `quotes` are those in it. Null unless each other byte is printable
/// ASCII and no backslash.
pub fn plain(data: []const u8, quotes: *Quotes) ?[]const u8 {
    quotes.count = 0;
    var at: usize = 0;
    while (at < @min(data.len, LINE_BYTES_MAX)) : (at += BLOCK) {
        const bytes = load(data, at);
        // As numbers with a sign, bytes above 0x7f are below 0.
        const usual = bits(@as(Signed, @bitCast(bytes)) > @as(Signed, @splat(0x1f))) &
            bits(bytes != @as(Bytes, @splat('\\')));
        const quoted = bits(bytes == @as(Bytes, @splat('"')));
        if (usual == std.math.maxInt(u64)) {
            quotes.note(@intCast(at), quoted);
            if (quotes.count > QUOTES_MAX) return null;
            continue;
        }
        const first: u6 = @intCast(@ctz(~usual));
        const newline = at + first;
        if (newline >= data.len or data[newline] != '\n') return null;
        quotes.note(@intCast(at), quoted & ((@as(u64, 1) << first) - 1));
        if (quotes.count > QUOTES_MAX) return null;
        quotes.places[quotes.count..][0..2].* = @splat(std.math.maxInt(u32));
        return data[0 .. newline + 1];
    }
    return null;
}
