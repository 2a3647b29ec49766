//! Rows for a set of documents that is known as a whole.

use std::collections::{BTreeMap, VecDeque};

/// The documents of each row, by their indices, for documents of the lengths `lens` and rows of `seq_len` tokens:
/// the longest first, each in the fullest row that has room, of equally full ones in the oldest. The order is
/// that of TRL's `bfd`. A document longer than a row gets one of its own.
///
/// ```
/// use calumma::data::pack::best_fit_decreasing;
///
/// assert_eq!(best_fit_decreasing(&[3, 8, 4, 1], 8), [vec![1], vec![2, 0, 3]]);
/// ```
pub fn best_fit_decreasing(lens: &[usize], seq_len: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lens.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(lens[*index]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // The rows by the room that they have left, oldest first.
    let mut by_room: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for index in order {
        let len = lens[index];
        let found = by_room.range_mut(len.max(1)..).find(|(_, rows)| !rows.is_empty());
        let (row, room) = match found {
            Some((room, with_room)) => (with_room.pop_front(), *room),
            None => (None, seq_len),
        };
        let row = row.unwrap_or_else(|| {
            rows.push(Vec::new());
            rows.len() - 1
        });
        rows[row].push(index);
        by_room.entry(room.saturating_sub(len)).or_default().push_back(row);
    }
    rows
}
