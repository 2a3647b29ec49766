//! Which rows of an image in progress a stream shows.

use crate::server::fault::Fault;

/// Most images in progress that a stream shows.
const MOST: usize = 64;

/// The number in `partial_images`, 0 without it.
///
/// # Errors
/// If it is too large.
pub(super) fn check_partial(asked: Option<usize>) -> Result<usize, Fault> {
    match asked.unwrap_or(0) {
        number @ 0..=MOST => Ok(number),
        number => {
            let message = format!("partial_images is {number}; allowed: 0 to {MOST}");
            Err(Fault::of("partial_images", message))
        }
    }
}

/// What of one image was shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    /// How many times at most.
    of: usize,
    /// The last of the `of + 1` equal parts that was reached.
    reached: usize,
    times: usize,
}

impl Shown {
    /// Nothing yet, and at most `times` times.
    pub(super) fn of(times: usize) -> Self {
        Self { of: times, reached: 0, times: 0 }
    }

    /// Whether to show the rows now that `done` of `total` codes are drawn, `width` in a row: after the first of `of + 1`
    /// equal parts, the second, and so on, as soon as a row is whole. Then the number of this time.
    pub(super) fn next(&mut self, done: usize, total: usize, width: usize) -> Option<usize> {
        let at = done * (self.of + 1) / total;
        if self.of == 0 || done == total || at <= self.reached || !done.is_multiple_of(width) {
            return None;
        }
        self.reached = at;
        self.times += 1;
        Some(self.times - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shown_when_they_are_whole_and_as_often_as_asked() {
        let shown = |times, width, rows| {
            let (mut shown, total) = (Shown::of(times), width * rows);
            (1..=total).filter(|done| shown.next(*done, total, width).is_some()).collect::<Vec<_>>()
        };
        assert!(shown(0, 8, 8).is_empty());
        assert_eq!(shown(1, 8, 8), [32]);
        assert_eq!(shown(3, 8, 8), [16, 32, 48]);
        assert_eq!(shown(64, 4, 3), [4, 8]);
        // A third of five rows is no row's end.
        assert_eq!(shown(2, 2, 5), [4, 8]);
    }
}
