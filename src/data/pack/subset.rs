//! The choice of documents for a row.

/// Ascending indices of the documents for a row: the first one and those that fill the rest of
/// `seq_len` best (subset sum, preferring earlier documents). Every length is from 1 to `seq_len`.
pub(super) fn fullest(lens: &[usize], seq_len: usize) -> Vec<usize> {
    let Some((&first, others)) = lens.split_first() else { return Vec::new() };
    let room = seq_len - first;
    // added[sum]: the document that first made `sum` reachable, together with earlier ones
    let mut added: Vec<Option<usize>> = vec![None; room + 1];
    for (index, &len) in others.iter().enumerate() {
        if added[room].is_some() {
            break;
        }
        for sum in (len..=room).rev() {
            let reachable = sum == len || added[sum - len].is_some();
            if added[sum].is_none() && reachable {
                added[sum] = Some(index + 1);
            }
        }
    }
    let mut sum = (0..=room).rev().find(|&sum| added[sum].is_some()).unwrap_or(0);
    let mut chosen = Vec::new();
    while let Some(index) = added[sum] {
        chosen.push(index);
        sum -= lens[index];
    }
    chosen.push(0);
    chosen.reverse();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_as_well_as_any_subset_could() {
        assert_eq!(fullest(&[5, 6, 4, 3], 12), [0, 2, 3]);
        assert_eq!(fullest(&[5, 5, 5], 10), [0, 1], "earlier documents first");
        assert_eq!(fullest(&[10, 1], 10), [0]);
        assert!(fullest(&[], 10).is_empty());
    }
}
