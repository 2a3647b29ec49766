//! The `calumma` program.
fn main() {}
