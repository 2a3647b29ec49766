//! Properties of the tokenizer that hold for any text and any segments.

use calumma::tokenize::{CodedSegment, EncodeOptions, TokenClass, Turn};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::tokenize::{FIXTURE, TRAINED, image};

/// Any text: characters of all planes, controls, and names of tokens.
fn any_text() -> impl Strategy<Value = String> {
    let names =
        ["<s>", "</s>", "<racm3:break>", "<eoss>", "IMGIMGAZ", "IMGIMG", "<image>", "Z", "<"];
    let piece = prop_oneof![
        4 => any::<char>().prop_map(String::from),
        3 => proptest::sample::select(vec![" ", "\n", "\t", "e\u{301}", "👩‍👩‍👧", "circle", "42", "'s"])
            .prop_map(str::to_owned),
        3 => proptest::sample::select(names.to_vec()).prop_map(str::to_owned),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn any_segments() -> impl Strategy<Value = Vec<CodedSegment>> {
    let segment = prop_oneof![
        any_text().prop_map(CodedSegment::Text),
        proptest::array::uniform6(0..16u32).prop_map(image),
        Just(CodedSegment::sep()),
    ];
    vec(segment, 0..6)
}

fn any_turn() -> impl Strategy<Value = Vec<CodedSegment>> {
    any_segments().prop_map(|mut segments| {
        segments.retain(|segment| !matches!(segment, CodedSegment::Special(_)));
        segments
    })
}

/// `segments` with adjacent texts joined and empty ones omitted.
fn joined(segments: &[CodedSegment]) -> Vec<CodedSegment> {
    let mut joined: Vec<CodedSegment> = Vec::new();
    for segment in segments {
        match (joined.last_mut(), segment) {
            (_, CodedSegment::Text(text)) if text.is_empty() => {}
            (Some(CodedSegment::Text(before)), CodedSegment::Text(text)) => before.push_str(text),
            _ => joined.push(segment.clone()),
        }
    }
    joined
}

proptest! {
    #[test]
    fn text_survives_encoding(text in any_text()) {
        let tokenizer = TRAINED.text();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode_plain(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn user_text_makes_text_ids_only(text in any_text()) {
        for processor in [&*TRAINED, &*FIXTURE] {
            for id in processor.text().encode_plain(&text).unwrap() {
                prop_assert_eq!(processor.vocabulary().class(id), TokenClass::Text);
            }
        }
    }

    #[test]
    fn plain_text_without_names_encodes_by_the_file(text in "[ -;=?-Za-z\n\tà-ÿ一-龥]{0,30}") {
        let tokenizer = TRAINED.text();
        prop_assert_eq!(tokenizer.encode_plain(&text).unwrap(), tokenizer.encode(&text).unwrap());
    }

    #[test]
    fn segments_survive_encoding(segments in any_segments()) {
        let encoded = TRAINED.encode(&segments).unwrap();
        prop_assert_eq!(TRAINED.decode(&encoded).unwrap(), joined(&segments));
        let padded = [vec![1; 3], encoded].concat();
        prop_assert_eq!(TRAINED.decode(&padded).unwrap(), joined(&segments));
    }

    #[test]
    fn a_cut_document_is_a_beginning_with_whole_images(segments in any_segments(), len in 0..40usize) {
        let whole = TRAINED.document(&segments).unwrap();
        let cut = TRAINED.truncated(whole.clone(), len);
        prop_assert!(whole.ids.starts_with(&cut.ids) && whole.loss_mask.starts_with(&cut.loss_mask));
        prop_assert!(cut.len() <= len && cut.ids.len() == cut.loss_mask.len());
        prop_assert!(TRAINED.decode(&cut.ids).is_ok());
        let special = TRAINED.vocabulary().special();
        let kept = &whole.ids[..len.min(whole.len())];
        let is_within_an_image = cut.len() < kept.len();
        prop_assert!(!is_within_an_image || whole.ids[cut.len()] == special.begin_image.unwrap());
        let of = |id: u32| cut.ids.iter().filter(|found| **found == id).count();
        prop_assert_eq!(of(special.begin_image.unwrap()), of(special.end_image.unwrap()));
    }

    #[test]
    fn streamed_text_equals_the_whole(ids in vec(0..420u32, 0..60), high in vec(290..294u32, 0..4)) {
        let tokenizer = TRAINED.text();
        let ids = [ids, high].concat();
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for id in &ids {
            text += &stream.push(*id).unwrap();
        }
        text += &stream.finish().unwrap();
        prop_assert_eq!(text, tokenizer.decode(&ids).unwrap());
    }

    #[test]
    fn streamed_text_never_shows_half_a_character(text in any_text()) {
        let tokenizer = TRAINED.text();
        let mut stream = tokenizer.stream();
        let mut seen = String::new();
        for id in tokenizer.encode_plain(&text).unwrap() {
            seen += &stream.push(id).unwrap();
            prop_assert!(text.starts_with(&seen));
        }
        prop_assert_eq!(seen, text);
    }

    #[test]
    fn the_targets_are_exactly_the_answers(turns in vec((any_turn(), any_turn()), 1..4)) {
        let special = TRAINED.vocabulary().special();
        let last = turns.len() - 1;
        let plain = EncodeOptions { bos: false, ..EncodeOptions::default() };
        let mut expected = vec![];
        for (index, (_, answer)) in turns.iter().enumerate() {
            expected.extend(TRAINED.encode_with(answer, plain).unwrap());
            expected.push(if index == last { special.eos } else { special.sep.unwrap() });
        }
        let turns = turns.into_iter().flat_map(|(user, answer)| [Turn::user(user), Turn::assistant(answer)]);
        let sequence = TRAINED.chat(&turns.collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(sequence.ids.len(), sequence.loss_mask.len());
        prop_assert_eq!(sequence.ids[0], special.bos.unwrap());
        let targets = sequence.ids.iter().zip(&sequence.loss_mask).filter(|(_, target)| **target);
        prop_assert_eq!(targets.map(|(id, _)| *id).collect::<Vec<_>>(), expected);
        // The separator before an answer is no target.
        let separators = sequence.ids.iter().filter(|id| **id == special.sep.unwrap()).count();
        prop_assert_eq!(separators, 2 * last + 1);
    }
}
