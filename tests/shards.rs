//! Token shards: documents survive a round trip, flipped bits are detected, other tokenizers are refused.

use std::path::Path;
use std::sync::Arc;

use calumma::checkpoint::Checkpoint;
use calumma::data::pack::{PackedBatch, Packer};
use calumma::data::shards::{Shard, ShardContent, TokenShards, tokenizer_digest};
use calumma::data::{
    CurriculumConfig, DocumentData, DocumentStream, Encoding, LeftOut, Stages, StreamState,
};
use calumma::tokenize::TokenSequence;
use proptest::prelude::*;

use crate::common::{cpu, tiny_checkpoint};

fn content(documents: Vec<(TokenSequence, usize)>) -> ShardContent {
    ShardContent {
        tokenizer: "0123456789abcdef".to_owned(),
        made_of: "a recipe".to_owned(),
        sources: vec!["scenes".to_owned(), "emoji".to_owned()],
        documents,
    }
}

fn document(number: usize, len: usize, largest: u32) -> (TokenSequence, usize) {
    let id = |at: usize| ((number * 7919 + at * 104_729) as u32) % (largest + 1);
    let ids = (0..len).map(id).collect();
    let loss_mask = (0..len).map(|at| at > 0 && !(at + number).is_multiple_of(3)).collect();
    (TokenSequence { ids, loss_mask }, number % 2)
}

proptest! {
    #[test]
    fn documents_survive_a_round_trip(
        lens in prop::collection::vec(0usize..40, 1..30), wide in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let largest = if wide { 70_000 } else { 65_535 };
        let documents: Vec<_> =
            lens.iter().enumerate().map(|(n, len)| document(n, *len, largest)).collect();
        let path = dir.path().join("a.safetensors");
        let bytes = content(documents.clone()).to_bytes().unwrap();
        prop_assert_eq!(&bytes, &content(documents.clone()).to_bytes().unwrap());
        std::fs::write(&path, bytes).unwrap();
        let shard = Shard::open(&path).unwrap();
        prop_assert_eq!(shard.len(), documents.len());
        prop_assert_eq!(shard.num_tokens(), lens.iter().sum::<usize>());
        for (index, document) in documents.iter().enumerate() {
            prop_assert_eq!(&shard.get(index).unwrap(), document);
        }
        // Any reader of safetensors can read it.
        let file = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let ids = tensors.tensor("ids").unwrap();
        prop_assert_eq!(ids.shape(), [shard.num_tokens()]);
    }
}

#[test]
fn every_flipped_bit_is_detected_before_a_document_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let documents = vec![document(0, 9, 1000), document(1, 4, 1000), document(2, 13, 1000)];
    let whole = content(documents).to_bytes().unwrap();
    let is_sound = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Shard::open(&path).and_then(|shard| shard.verify().map(|()| shard.get(0).unwrap())).is_ok()
    };
    assert!(is_sound(&whole));
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            assert!(!is_sound(&bytes), "bit {bit} of byte {at} of {}", whole.len());
        }
    }
    for len in (0..whole.len()).step_by(7) {
        assert!(!is_sound(&whole[..len]), "cut at {len}");
    }
    assert!(!is_sound(&[whole.as_slice(), b"more"].concat()), "something was added");
}

#[test]
fn documents_of_several_shards_are_concatenated_with_their_sources() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &ShardContent| {
        std::fs::write(dir.path().join(name), content.to_bytes().unwrap()).unwrap();
    };
    write("b.safetensors", &content(vec![document(1, 5, 9)]));
    let mut other = content(vec![(document(2, 6, 9).0, 1), (document(3, 7, 9).0, 0)]);
    other.sources = vec!["tiles".to_owned(), "scenes".to_owned()];
    write("a.safetensors", &other);
    let spec = dir.path().to_str().unwrap();
    let shards = TokenShards::open(spec, "0123456789abcdef", dir.path(), true).unwrap();
    assert_eq!(shards.len(), 3);
    let found: Vec<(usize, &str)> = (0..3)
        .map(|index| {
            let (tokens, source) = shards.get(index).unwrap();
            (tokens.len(), shards.sources()[source].as_str())
        })
        .collect();
    assert_eq!(found, [(6, "scenes"), (7, "tiles"), (5, "emoji")]);
    let message = TokenShards::open(spec, "another", dir.path(), true).unwrap_err().to_string();
    assert!(message.contains("made with the tokenizer 0123456789abcdef"), "{message}");
    assert!(message.contains("a.safetensors"), "{message}");
}

/// The documents of `a.safetensors` and of `b.safetensors`, which is damaged, both in `dir`.
fn damaged_shards(dir: &Path, tokenizer: &str, lens: [usize; 2]) {
    for (name, len) in ["a", "b"].into_iter().zip(lens) {
        let documents = (0..len).map(|number| (document(number, 20, 300).0, 0)).collect();
        let tokenizer = tokenizer.to_owned();
        let mut bytes = ShardContent { tokenizer, ..content(documents) }.to_bytes().unwrap();
        if name == "b" {
            *bytes.last_mut().unwrap() ^= 1;
        }
        std::fs::write(dir.join(format!("{name}.safetensors")), bytes).unwrap();
    }
}

#[test]
fn damaged_documents_are_left_out_of_a_stream_which_resumes_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("tiny");
    tiny_checkpoint(&checkpoint);
    let opened = Checkpoint::open(&checkpoint, &cpu()).unwrap();
    let (processor, vq) = (Arc::new(opened.processor), opened.vq.unwrap());
    let tokenizer = tokenizer_digest(&processor, "digest").unwrap();
    let shards = dir.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    let stream = || {
        let encoding =
            Encoding { vq: Some(&vq), digest: "digest", cache_dir: dir.path(), quiet: true };
        let data = [DocumentData::shards(shards.to_str().unwrap())];
        let stages = Stages::new(&CurriculumConfig::default(), 1, 1);
        let packer = Packer::new(2, 64, 1).unwrap();
        DocumentStream::new(&data, encoding, 3, processor.clone(), packer, stages).unwrap()
    };
    let batches = |stream: &mut DocumentStream, count: usize| -> Vec<PackedBatch> {
        (0..count).map(|_| stream.next_batch().unwrap().packed).collect()
    };
    damaged_shards(&shards, &tokenizer, [198, 2]);
    let mut straight = stream();
    let all = batches(&mut straight, 80);
    let left_out = straight.state().left_out();
    let bad: u64 = left_out.iter().map(|left_out| left_out.bad).sum();
    assert_eq!(bad, 2, "each is counted once: {left_out:?}");
    let text = left_out.iter().flat_map(LeftOut::omissions).next().unwrap().to_string();
    assert!(text.contains("2 samples are bad") && text.contains("b.safetensors"), "{text}");

    let mut first = stream();
    assert_eq!(batches(&mut first, 40), all[..40]);
    let saved = serde_json::to_string(&first.state()).unwrap();
    let state: StreamState = serde_json::from_str(&saved).unwrap();
    let mut second = stream();
    second.restore(&state).unwrap();
    assert_eq!(batches(&mut second, 40), all[40..]);
    assert_eq!(second.state().left_out(), left_out);

    damaged_shards(&shards, &tokenizer, [197, 3]);
    let mut many = stream();
    let message = (0..80).find_map(|_| many.next_batch().err()).unwrap().to_string();
    assert!(message.contains("3 of 200 samples are bad, more than the allowed 1 %"), "{message}");
}

#[test]
fn a_stream_saved_by_an_earlier_version_is_read() {
    let saved = r#"{
        "cursor": { "seed": 1, "draws": 2, "lens": [5], "taken": [2] },
        "packer": {
            "report": {
                "documents": 1, "tokens": 9, "padding": 0, "too_long": 3, "too_short": 0, "longest": 99
            },
            "waiting": [{ "ids": [1, 2], "mask_runs": [1, 1] }]
        }
    }"#;
    let state: StreamState = serde_json::from_str(saved).unwrap();
    assert_eq!((state.packed().0.too_long, state.left_out().len()), (3, 0));
}
