//! Passes of many lanes over a paged cache.

use super::latent::latent;
use super::*;

/// Models with every kind of attention.
fn kinds() -> [ModelConfig; 3] {
    [tiny(false), latent(None), latent(Some(10))]
}

/// Bit for bit, as far as every operation of the model has one order of arithmetic for all rows.
#[test]
fn logits_are_those_of_one_id_at_a_time_whatever_the_chunks_mates_and_blocks() {
    for config in kinds() {
        let serving = serving(&ModelConfig { max_position_embeddings: 150, ..config });
        check_company(&serving);
    }
}

fn check_company(serving: &ServingModel) {
    let rows = [some_ids(141, 1), some_ids(97, 2), some_ids(30, 3)];
    let alone: Vec<Vec<Vec<f32>>> = rows
        .iter()
        .map(|row| {
            let mut lane = Alone::new(serving, row.len());
            row.iter().flat_map(|id| lane.extend(&[*id])).collect()
        })
        .collect();
    let tables: [&[u32]; 3] = [&[9, 2, 5], &[0, 7], &[4]];
    for chunks in [[1, 1, 1], [64, 2, 30], [3, 97, 1], [141, 40, 7], [17, 16, 5]] {
        let mut cache = serving.new_cache(10);
        serving.poison(&(0..10).collect::<Vec<_>>(), &mut cache);
        let mut lens = [0; 3];
        while lens.iter().zip(&rows).any(|(len, row)| *len < row.len()) {
            let running: Vec<usize> = (0..3).filter(|&n| lens[n] < rows[n].len()).collect();
            let spans: Vec<Span<'_>> = running
                .iter()
                .map(|&n| {
                    let end = rows[n].len().min(lens[n] + chunks[n]);
                    let ids = &rows[n][lens[n]..end];
                    // Lanes want different columns and numbers of rows.
                    let (wanted, columns) = (ids.len().min(1 + 7 * n), 4 * n..32);
                    Span { blocks: tables[n], start: lens[n], ids, wanted, columns }
                })
                .collect();
            let found = serving.pass(&spans, &mut cache).unwrap();
            for ((&n, span), found) in running.iter().zip(&spans).zip(found) {
                lens[n] += span.ids.len();
                let want: Vec<_> = alone[n][lens[n] - span.wanted..lens[n]]
                    .iter()
                    .map(|logits| logits[span.columns.clone()].to_vec())
                    .collect();
                assert_eq!(found, want, "chunks {chunks:?}, lane {n} up to {}", lens[n]);
            }
        }
    }
}

#[test]
fn lanes_that_begin_alike_share_blocks() {
    for config in kinds() {
        check_sharing(&serving(&ModelConfig { max_position_embeddings: 150, ..config }));
    }
}

fn check_sharing(serving: &ServingModel) {
    let beginning = some_ids(BLOCK + 10, 4);
    let rows = [1, 2].map(|salt| [&beginning[..], &some_ids(20, salt)].concat());
    let span = |blocks, start, ids, wanted| Span { blocks, start, ids, wanted, columns: 0..32 };
    let mut cache = serving.new_cache(4);
    serving.pass(&[span(&[3, 1], 0, &beginning, 0)], &mut cache).unwrap();
    // The full block is shared, the partial one copied.
    cache.copy_block(1, 2);
    let start = beginning.len();
    let spans =
        [span(&[3, 1], start, &rows[0][start..], 1), span(&[3, 2], start, &rows[1][start..], 1)];
    let found = serving.pass(&spans, &mut cache).unwrap();
    for (row, found) in rows.iter().zip(found) {
        let want = serving.all_logits(row).unwrap().split_off(row.len() - 1);
        assert!(excess(&data(&found), &data(&want), 1e-5, 1e-5) <= 1.0);
    }
}

#[test]
fn a_poisoned_block_shows_where_it_is_used_and_only_there() {
    for config in kinds() {
        check_poison(&serving(&config));
    }
}

fn check_poison(serving: &ServingModel) {
    let span = |blocks| Span { blocks, start: 3, ids: &[7], wanted: 1, columns: 0..32 };
    let mut cache = serving.new_cache(3);
    let prompt = |blocks| Span { blocks, start: 0, ids: &[1, 2, 3], wanted: 0, columns: 0..32 };
    serving.pass(&[prompt(&[0]), prompt(&[2])], &mut cache).unwrap();
    serving.poison(&[2], &mut cache);
    let found = serving.pass(&[span(&[0]), span(&[2])], &mut cache).unwrap().concat();
    assert!(found[0].iter().all(|logit| logit.is_finite()));
    assert!(found[1].iter().all(|logit| logit.is_nan()));
}

#[test]
fn spans_that_the_model_cannot_run_are_refused() {
    let serving = serving(&tiny(false));
    let mut cache = serving.new_cache(2);
    let good = Span { blocks: &[1], start: 0, ids: &[1, 2, 31], wanted: 3, columns: 0..32 };
    let found = serving.pass(std::slice::from_ref(&good), &mut cache).unwrap();
    assert_eq!((found.len(), found[0].len(), found[0][0].len()), (1, 3, 32));
    let long = [1; 65];
    for (what, bad) in [
        ("no ids", Span { ids: &[], wanted: 0, ..good.clone() }),
        ("the vocabulary of 32", Span { ids: &[1, 32], wanted: 0, ..good.clone() }),
        ("context", Span { ids: &long, blocks: &[0, 1], ..good.clone() }),
        ("context", Span { start: 62, ..good.clone() }),
        ("do not fit 0 blocks", Span { blocks: &[], ..good.clone() }),
        ("no block 2", Span { blocks: &[2], ..good.clone() }),
        ("4 logits wanted", Span { wanted: 4, ..good.clone() }),
        ("0..33", Span { columns: 0..33, ..good.clone() }),
    ] {
        let error = serving.pass(&[bad], &mut cache).unwrap_err().to_string();
        assert!(error.contains(what), "{error}, not {what}");
    }
    let error = serving.pass(&[good.clone(), good], &mut cache).unwrap_err().to_string();
    assert!(error.contains("two spans write to block 1"), "{error}");
    assert!(serving.pass(&[], &mut cache).unwrap().is_empty());
    assert!(serving.all_logits(&[]).is_err());
    assert!(serving.all_logits(&[1; 65]).is_err());
}
