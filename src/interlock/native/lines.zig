//! Lines of which each byte is printable ASCII and no backslash, and where their quotes are.

const std = @import("std");

const BLOCK = 64;
const BLOCKS_MAX = 4096;

const Bytes = @Vector(BLOCK, u8);
const Signed = @Vector(BLOCK, i8);

/// Where the quotes of a line are: a bit for each byte. `count`: how many there are.
pub const Quotes = struct {
    masks: [BLOCKS_MAX]u64,
    blocks: usize,
    count: usize,

    inline fn add(self: *Quotes, mask: u64) void {
        self.masks[self.blocks] = mask;
        self.blocks += 1;
        self.count += @popCount(mask);
    }

    /// The place of the first quote from `at` on; null if there is none.
    pub inline fn next(self: *const Quotes, at: usize) ?usize {
        var block = at / BLOCK;
        if (block >= self.blocks) return null;
        const mask = self.masks[block] >> @intCast(at % BLOCK);
        if (mask != 0) return at + @ctz(mask);
        block += 1;
        while (block < self.blocks) : (block += 1) {
            if (self.masks[block] != 0) return block * BLOCK + @ctz(self.masks[block]);
        }
        return null;
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
    quotes.blocks = 0;
    quotes.count = 0;
    while (quotes.blocks < BLOCKS_MAX and BLOCK * quotes.blocks < data.len) {
        const at = BLOCK * quotes.blocks;
        const bytes = load(data, at);
        // As numbers with a sign, bytes above 0x7f are below 0.
        const usual = bits(@as(Signed, @bitCast(bytes)) > @as(Signed, @splat(0x1f))) &
            bits(bytes != @as(Bytes, @splat('\\')));
        const quoted = bits(bytes == @as(Bytes, @splat('"')));
        if (usual == std.math.maxInt(u64)) {
            quotes.add(quoted);
            continue;
        }
        const first: u6 = @intCast(@ctz(~usual));
        const newline = at + first;
        if (newline >= data.len or data[newline] != '\n') return null;
        quotes.add(quoted & ((@as(u64, 1) << first) - 1));
        return data[0 .. newline + 1];
    }
    return null;
}
