//! Packing: every document once and whole, and exact resume.

use calumma::data::pack::{PackedBatch, Packer, PackerState};
use calumma::tokenize::TokenSequence;
use proptest::prelude::*;

/// Documents whose ids tell them apart: document `d` holds `1000 * d + position`.
fn documents(lens: &[usize]) -> Vec<TokenSequence> {
    let document = |(number, &len): (usize, &usize)| TokenSequence {
        ids: (0..len).map(|position| (1000 * number + position) as u32).collect(),
        loss_mask: (0..len).map(|position| (position + number) % 3 != 0).collect(),
    };
    lens.iter().enumerate().map(document).collect()
}

fn packed(
    packer: &mut Packer,
    documents: &mut dyn Iterator<Item = TokenSequence>,
) -> Vec<PackedBatch> {
    std::iter::from_fn(|| packer.batch(|| Ok(documents.next().map(Into::into))).unwrap()).collect()
}

const PAD: u32 = u32::MAX;

/// The documents of a batch in row order; checks positions, numbers and masks.
fn unpacked(batch: &PackedBatch) -> Vec<TokenSequence> {
    let len = batch.rows * batch.seq_len;
    assert_eq!((batch.ids.len(), batch.document_ids.len()), (len, len));
    assert_eq!((batch.positions.len(), batch.loss_mask.len()), (len, len));
    let mut documents: Vec<TokenSequence> = Vec::new();
    for start in (0..len).step_by(batch.seq_len) {
        let mut last = 0;
        let mut padded = false;
        for at in start..start + batch.seq_len {
            let number = batch.document_ids[at];
            if number == 0 {
                padded = true;
                assert_eq!((batch.ids[at], batch.loss_mask[at]), (PAD, false));
                continue;
            }
            assert!(!padded, "padding is at the end of a row only");
            if number != last {
                assert_eq!((number, batch.positions[at]), (last + 1, 0));
                assert!(!batch.loss_mask[at], "the first token has no target");
                documents.push(TokenSequence { ids: Vec::new(), loss_mask: Vec::new() });
                last = number;
            }
            let document = documents.last_mut().unwrap();
            assert_eq!(batch.positions[at] as usize, document.ids.len());
            document.ids.push(batch.ids[at]);
            document.loss_mask.push(batch.loss_mask[at]);
        }
    }
    documents
}

proptest! {
    #[test]
    fn packing_places_every_document_once_and_whole(
        lens in prop::collection::vec(0usize..50, 1..120), rows in 1usize..5, seq_len in 2usize..60,
    ) {
        let mut packer = Packer::new(rows, seq_len, PAD).unwrap();
        let batches = packed(&mut packer, &mut documents(&lens).into_iter());
        let mut found: Vec<_> = batches.iter().flat_map(unpacked).collect();
        found.sort_by_key(|document| document.ids[0]);
        let fits = |len: usize| (2..=seq_len).contains(&len);
        let mut expected = documents(&lens);
        expected.retain(|document| fits(document.ids.len()));
        expected.iter_mut().for_each(|document| document.loss_mask[0] = false);
        prop_assert_eq!(&found, &expected);
        let report = packer.report();
        let tokens: usize = batches.iter().map(PackedBatch::num_tokens).sum();
        prop_assert_eq!((report.documents, report.tokens), (found.len() as u64, tokens as u64));
        let dropped = lens.iter().filter(|len| !fits(**len)).count() as u64;
        prop_assert_eq!(report.too_long + report.too_short, dropped);
        prop_assert_eq!(report.padding as usize, batches.len() * rows * seq_len - tokens);
    }

    #[test]
    fn a_restored_packer_continues_as_an_uninterrupted_one(
        lens in prop::collection::vec(2usize..30, 20..200), stop in 0usize..6,
    ) {
        let mut straight = Packer::new(3, 32, PAD).unwrap();
        let all = packed(&mut straight, &mut documents(&lens).into_iter());
        let mut first = Packer::new(3, 32, PAD).unwrap();
        let mut source = documents(&lens).into_iter();
        let mut batches = Vec::new();
        for _ in 0..stop {
            batches.extend(first.batch(|| Ok(source.next().map(Into::into))).unwrap());
        }
        let saved = serde_json::to_string(&first.state()).unwrap();
        let state: PackerState = serde_json::from_str(&saved).unwrap();
        let mut second = Packer::new(3, 32, PAD).unwrap();
        second.restore(&state).unwrap();
        batches.extend(packed(&mut second, &mut source));
        prop_assert_eq!(batches, all);
        prop_assert_eq!(second.report(), straight.report());
    }
}

#[test]
fn full_rows_leave_little_padding() {
    // lengths of captions with an image of 66 ids
    let lens: Vec<usize> = (0..4000).map(|n| 68 + (n * 7919) % 41).collect();
    let mut packer = Packer::new(16, 512, PAD).unwrap();
    let batches = packed(&mut packer, &mut documents(&lens).into_iter());
    let whole = &batches[..batches.len() - 2];
    let padding = whole.iter().map(PackedBatch::padding_share).sum::<f64>() / whole.len() as f64;
    assert!(padding < 0.002, "{padding}");
}

#[test]
fn documents_that_never_fit_stop_the_run() {
    let mut packer = Packer::new(1, 8, PAD).unwrap();
    let long = TokenSequence { ids: vec![0; 9], loss_mask: vec![true; 9] };
    let message = packer.batch(|| Ok(Some(long.clone().into()))).unwrap_err().to_string();
    assert!(message.contains("row of 8 tokens (the last has 9)"), "{message}");
    let uneven = TokenSequence { ids: vec![0; 3], loss_mask: vec![true] };
    assert!(Packer::new(1, 8, PAD).unwrap().batch(|| Ok(Some(uneven.clone().into()))).is_err());
    assert!(Packer::new(0, 8, PAD).is_err() && Packer::new(1, 1, PAD).is_err());
}
