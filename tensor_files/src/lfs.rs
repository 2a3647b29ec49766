//! Pointers of Git LFS: small text files that a clone without Git LFS has in place of large ones.

/// First bytes of every pointer.
/// Source: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>, "The Pointer".
const START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What is wrong with a file that is a pointer, and the remedy.
pub const LFS_POINTER: &str = "a pointer of Git LFS, not the file; run `git lfs pull`";

/// Whether a file that begins with `head` is a pointer; 64 bytes are enough.
pub fn is_lfs_pointer(head: &[u8]) -> bool {
    head.starts_with(START)
}
