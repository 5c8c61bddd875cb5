//! The Merkle tree of RFC 9162, section 2.1: the largest complete subtrees over consecutive leaves.

const sha256 = @import("sha256.zig");

/// Without instructions of the processor, hashlib is faster.
pub const is_fast = sha256.has_instructions;

/// The root of a complete subtree of 2^level leaves.
pub const Root = extern struct { level: u64, hash: sha256.Digest };

pub inline fn leafHash(leaf: []const u8) sha256.Digest {
    return sha256.one(0x00, leaf);
}

pub inline fn leafHashes(leaves: [2][]const u8) [2]sha256.Digest {
    return sha256.two(0x00, leaves);
}

fn nodeHash(left: sha256.Digest, right: sha256.Digest) sha256.Digest {
    return sha256.one(0x01, &(left ++ right));
}

/// Subtrees that are not whole yet, from the left: at most one of each level on the way up, and one on the way down.
pub const Range = struct {
    next: u64,
    roots: []Root,
    count: usize = 0,

    /// Add the hash of the leaf with index `next`. False if there is no room.
    pub fn push(self: *Range, hash: sha256.Digest) bool {
        var root: Root = .{ .level = 0, .hash = hash };
        while (self.count > 0) {
            const left = self.roots[self.count - 1];
            // A subtree is the right one of two if its place among those of its level is odd.
            if (left.level != root.level or self.next >> @intCast(root.level) & 1 == 0) break;
            root = .{ .level = root.level + 1, .hash = nodeHash(left.hash, root.hash) };
            self.count -= 1;
        }
        if (self.count == self.roots.len) return false;
        self.roots[self.count] = root;
        self.count += 1;
        self.next += 1;
        return true;
    }
};
