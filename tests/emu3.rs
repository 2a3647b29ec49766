//! Image blocks that begin with their size in digits, as Emu3's.

use calumma::generate::{GenerationMode, ModalityRules, ModalityState};
use calumma::tokenize::{CodedSegment, Processor, RoleNames, TextTokenizer};
use vq_tokenizer::Codes;

use crate::cli::emu3::{CODES, tokenizer};

const EOS: &str = "<|extra_204|>";

/// A processor for images of usually 3 rows of 4 codes.
fn processor() -> Processor {
    let names = RoleNames {
        eos: EOS.to_owned(),
        bos: Some("<|extra_203|>".to_owned()),
        pad: Some("<|endoftext|>".to_owned()),
        begin_image: Some("<|image start|>".to_owned()),
        end_image: Some("<|image end|>".to_owned()),
        image_placeholder: Some("<image>".to_owned()),
    };
    let text = TextTokenizer::from_bytes(tokenizer().to_string().as_bytes()).unwrap();
    Processor::new(text.with_roles(&names).unwrap(), (3, 4)).unwrap().sized().unwrap()
}

fn rules(processor: &Processor, mode: GenerationMode) -> ModalityRules {
    ModalityRules::new(processor.vocabulary(), processor.blocks().clone(), mode, &[]).unwrap()
}

fn names(processor: &Processor, ids: &[u32]) -> Vec<String> {
    let name = |id: &u32| processor.vocabulary().name(*id).unwrap().to_owned();
    ids.iter().map(name).collect()
}

fn image(height: usize, width: usize) -> Codes {
    let ids = (0..height * width).map(|at| (at * 7 % CODES) as u32).collect();
    Codes { ids, height, width }
}

#[test]
fn a_block_says_its_size_in_digits_and_ends_every_row() {
    let processor = processor();
    let document = [CodedSegment::text("a"), CodedSegment::Image(image(2, 10))];
    let ids = processor.encode(&document).unwrap();
    let found = names(&processor, &ids);
    let size = ["<|extra_203|>", "a", "<|image start|>", "2", "*", "1", "0", "<|image token|>"];
    assert_eq!(found[..8], size);
    assert_eq!([&found[8], &found[18]], ["<|visual token 000000|>", "<|extra_200|>"]);
    let end = ["<|extra_200|>", "<|extra_201|>", "<|image end|>"];
    assert_eq!(found[29..], end);
    assert_eq!(processor.blocks().block_len((2, 10)), ids.len() - 2);
    for (height, width) in [(1, 1), (3, 4), (12, 1), (1, 105)] {
        let document = [CodedSegment::Image(image(height, width)), CodedSegment::text("a 2*3")];
        let ids = processor.encode(&document).unwrap();
        assert_eq!(processor.decode(&ids).unwrap(), document, "{height}x{width}");
        let block = processor.blocks().block_len((height, width));
        // Without end-image it is whole, as generation may leave it.
        for len in 2..block {
            assert!(processor.decode(&ids[..len]).is_err(), "cut to {len} of {height}x{width}");
        }
        assert!(processor.decode(&ids[..block]).is_ok());
    }
    for (height, width) in [(0, 3), (2, 1025)] {
        let codes = Codes { ids: vec![0; height * width], height, width };
        let refused = processor.encode(&[CodedSegment::Image(codes)]).unwrap_err().to_string();
        assert!(refused.contains("allowed: 1 to 1024"), "{refused}");
    }
}

#[test]
fn only_rows_of_the_size_may_follow_and_then_the_end() {
    let processor = processor();
    let all = processor.encode(&[CodedSegment::Image(image(2, 10))]).unwrap();
    let rules = rules(&processor, GenerationMode::Auto);
    let eos = processor.text().id(EOS).unwrap();
    let whole = [&all[..], &[eos]].concat();
    // The states after each beginning that ends in the block, by the whole row and id by id.
    let mut state = rules.state_after(&whole[..1]).unwrap();
    for (at, &id) in whole.iter().enumerate().skip(1) {
        let left = whole.len() - at;
        assert!(rules.allows(state, id, usize::MAX), "{at}");
        if at < all.len() - 1 {
            assert_eq!(rules.state_after(&whole[..at]).unwrap(), state, "{at}");
        }
        if matches!(state, ModalityState::Image { .. } | ModalityState::LastImage) {
            assert_eq!(rules.least_to_complete(state), left, "{at}");
            if let Some(forced) = rules.forced(state) {
                assert_eq!(forced, id, "{at}");
            }
        }
        state = rules.advance(state, id);
    }
    assert_eq!(state, ModalityState::Done);
}

#[test]
fn sizes_are_numbers_whose_image_still_fits() {
    let processor = processor();
    let rules = rules(&processor, GenerationMode::Auto);
    let id = |name: &str| processor.text().id(name).unwrap();
    let after = |names: &str| {
        let row = [id("<|extra_203|>"), id("<|image start|>")].into_iter();
        let row: Vec<u32> = row.chain(names.chars().map(|name| id(&name.to_string()))).collect();
        rules.state_after(&row)
    };
    assert!(after("0").is_err() && after("2*0").is_err() && after("*").is_err());
    assert!(after("1025").is_err() && after("a").is_err());
    let state = after("12*3").unwrap();
    let allowed = |name: &str, available: usize| rules.allows(state, id(name), available);
    // The opening id, twelve rows of three codes and a line end, and what closes block and text.
    let needed = 1 + 12 * 4 + 3;
    assert!(allowed("<|image token|>", needed) && !allowed("<|image token|>", needed - 1));
    assert!(allowed("0", usize::MAX) && !allowed("0", needed + 1) && !allowed("*", usize::MAX));
    assert_eq!(rules.least_to_complete(state), needed);
}

#[test]
fn an_aspect_keeps_the_usual_number_of_codes() {
    let processor = processor();
    let grid = |aspect| processor.blocks().grid_of_aspect(aspect);
    assert_eq!(grid([4, 3]).unwrap(), (3, 4));
    assert_eq!(grid([1, 1]).unwrap(), (3, 3));
    assert_eq!(grid([3, 1]).unwrap(), (2, 6));
    let refused = grid([10_000, 1]).unwrap_err().to_string();
    assert!(refused.contains("aspect 10000:1") && refused.contains("0 rows"), "{refused}");
}
