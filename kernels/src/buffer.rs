//! Memory for intermediate results that a thread keeps.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::simd::LANES;

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of unspecified content that start on a cache line. A dropped one is kept for the thread's
/// next: fresh memory costs more than what is written to it.
pub struct Buffer {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` numbers.
    pub fn take(len: usize) -> Self {
        let mut memory = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if memory.len() < len + LANES {
            memory = vec![0.0; len + LANES];
        }
        let start = memory.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
        Self { memory, start, len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        SPARE.with_borrow_mut(|spare| spare.push(memory));
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
