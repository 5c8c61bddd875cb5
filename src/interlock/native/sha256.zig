//! SHA-256 (FIPS 180-4) of two messages at a time, by the instructions that the processor has for it.
//!
//! One message leaves half of the unit idle: each round waits for the one before.

const std = @import("std");
const builtin = @import("builtin");
const Sha256 = std.crypto.hash.sha2.Sha256;

const on_x86 = builtin.cpu.arch == .x86_64 and builtin.cpu.hasAll(.x86, &.{ .sha, .ssse3 });
const on_arm = builtin.cpu.arch == .aarch64 and builtin.cpu.has(.aarch64, .sha2);

pub const has_instructions = on_x86 or on_arm;

pub const Digest = [32]u8;

const Block = [64]u8;
const Words = @Vector(4, u32);

/// A prefix and what follows it, cut into blocks where it lies.
const Message = struct {
    text: []const u8,
    whole: usize, // blocks without any padding
    count: usize,
    first: Block,
    last: [2]Block,

    fn init(self: *Message, prefix: u8, text: []const u8) void {
        const size = text.len + 1;
        self.text = text;
        self.whole = size / 64;
        self.count = (size + 9 + 63) / 64;
        self.last = @splat(@splat(0));
        const end: *[128]u8 = @ptrCast(&self.last);
        var left = size % 64;
        if (self.whole > 0) {
            self.first[0] = prefix;
            self.first[1..].* = text[0..63].*;
            @memcpy(end[0..left], text[text.len - left ..]);
        } else {
            end[0] = prefix;
            @memcpy(end[1..left], text);
        }
        end[left] = 0x80;
        left = 64 * (self.count - self.whole);
        std.mem.writeInt(u64, end[0..128][left - 8 ..][0..8], 8 * @as(u64, size), .big);
    }

    inline fn block(self: *const Message, at: usize) *const Block {
        if (at >= self.whole) return &self.last[at - self.whole];
        return if (at == 0) &self.first else self.text[64 * at - 1 ..][0..64];
    }
};

/// The digest of prefix || text.
pub noinline fn one(prefix: u8, text: []const u8) Digest {
    if (!on_x86) return plain(prefix, text);
    var message: Message = undefined;
    message.init(prefix, text);
    var state: [1]State = .{.{}};
    for (0..message.count) |at| compress(1, &state, .{message.block(at)});
    return state[0].digest();
}

/// The digests of prefix || text of two texts.
pub noinline fn two(prefix: u8, texts: [2][]const u8) [2]Digest {
    if (!on_x86) return .{ plain(prefix, texts[0]), plain(prefix, texts[1]) };
    var messages: [2]Message = undefined;
    for (&messages, texts) |*message, text| message.init(prefix, text);
    const common = @min(messages[0].count, messages[1].count);
    var states: [2]State = @splat(.{});
    for (0..common) |at| compress(2, &states, .{ messages[0].block(at), messages[1].block(at) });
    for (&messages, &states) |*message, *state| {
        for (common..message.count) |at| compress(1, state[0..1], .{message.block(at)});
    }
    return .{ states[0].digest(), states[1].digest() };
}

fn plain(prefix: u8, text: []const u8) Digest {
    var state = Sha256.init(.{});
    state.update(&.{prefix});
    state.update(text);
    return state.finalResult();
}

/// The eight words as the instructions want them, last first: f, e, b, a and h, g, d, c.
const State = struct {
    feba: Words = .{ 0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667 },
    hgdc: Words = .{ 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372 },

    fn digest(self: State) Digest {
        const x, const y = .{ self.feba, self.hgdc };
        const words: [8]u32 = .{ x[3], x[2], y[3], y[2], x[1], x[0], y[1], y[0] };
        var out: Digest = undefined;
        for (words, 0..) |word, at| std.mem.writeInt(u32, out[4 * at ..][0..4], word, .big);
        return out;
    }
};

/// Add one block to each state.
inline fn compress(comptime lanes: usize, states: *[lanes]State, blocks: [lanes]*const Block) void {
    var words: [lanes][4]Words = undefined;
    inline for (0..lanes) |lane| {
        inline for (0..4) |at| words[lane][at] = bigEndian(blocks[lane][16 * at ..][0..16].*);
    }
    var now = states.*;
    inline for (0..16) |group| {
        const at = group % 4;
        inline for (0..lanes) |lane| {
            const w = &words[lane];
            if (group >= 4) {
                const before = w[(at + 3) % 4];
                const shifted: Words = @shuffle(u32, w[(at + 2) % 4], before, [4]i32{ 1, 2, 3, -1 });
                w[at] = schedule2(schedule1(w[at], w[(at + 1) % 4]) +% shifted, before);
            }
            const sum = w[at] +% @as(Words, K[4 * group ..][0..4].*);
            const state = &now[lane];
            state.hgdc = rounds(state.hgdc, state.feba, sum);
            state.feba = rounds(state.feba, state.hgdc, @shuffle(u32, sum, undefined, [4]i32{ 2, 3, 2, 3 }));
        }
    }
    inline for (0..lanes) |lane| {
        states[lane] = .{ .feba = states[lane].feba +% now[lane].feba, .hgdc = states[lane].hgdc +% now[lane].hgdc };
    }
}

inline fn bigEndian(bytes: [16]u8) Words {
    return @byteSwap(@as(Words, @bitCast(bytes)));
}

/// Two rounds with the first two words of `sum`: what becomes of `old`.
inline fn rounds(old: Words, other: Words, sum: Words) Words {
    return asm ("sha256rnds2 %[other], %[old]"
        : [old] "=x" (-> Words),
        : [_] "0" (old),
          [other] "x" (other),
          [_] "{xmm0}" (sum),
    );
}

inline fn schedule1(words: Words, next: Words) Words {
    return asm ("sha256msg1 %[next], %[words]"
        : [words] "=x" (-> Words),
        : [_] "0" (words),
          [next] "x" (next),
    );
}

inline fn schedule2(words: Words, before: Words) Words {
    return asm ("sha256msg2 %[before], %[words]"
        : [words] "=x" (-> Words),
        : [_] "0" (words),
          [before] "x" (before),
    );
}

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
const K = [64]u32{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
