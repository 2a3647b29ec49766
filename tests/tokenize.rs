//! The tokenizer against Hugging Face's outputs, and its training.

use std::path::PathBuf;
use std::sync::LazyLock;

use calumma::tokenize::{
    BEGIN_IMAGE_TOKEN, BpeConfig, CodedSegment, EncodeOptions, Processor, SEP_TOKEN, Template,
    TextTokenizer, TokenClass, Turn, code_token, train_bpe,
};
use serde_json::{Value, json};
use vq_tokenizer::Codes;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name)
}

fn fixture_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn fixture_tokenizer() -> TextTokenizer {
    TextTokenizer::load(&fixture("tokenizer.json")).unwrap()
}

pub static FIXTURE: LazyLock<Processor> =
    LazyLock::new(|| Processor::new(fixture_tokenizer(), (8, 8)).unwrap());

/// The fixture's tokenizer after a change to its file.
fn changed_tokenizer(change: impl FnOnce(&mut Value)) -> TextTokenizer {
    let mut file = fixture_json("tokenizer.json");
    change(&mut file);
    TextTokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn text_encodes_as_in_hugging_face() {
    let tokenizer = fixture_tokenizer();
    for case in fixture_json("expected.json")["encode"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let with_bos = tokenizer.encode_with_specials(text).unwrap();
        assert_eq!(with_bos, ids(&case["ids"]), "{text}");
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids_no_bos"]), "{text}");
        let tokens: Vec<String> = with_bos.iter().map(|id| tokenizer.token(*id).unwrap()).collect();
        assert_eq!(json!(tokens), case["tokens"], "{text}");
        assert_eq!(json!(tokenizer.decode(&with_bos).unwrap()), case["decoded_skip_special"]);
        assert_eq!(json!(tokenizer.decode_with_specials(&with_bos).unwrap()), case["decoded"]);
    }
}

#[test]
fn codes_and_control_tokens_have_the_ids_of_the_fixture() {
    let expected = fixture_json("expected.json");
    let vocabulary = fixture_tokenizer().vocabulary().unwrap();
    assert_eq!(vocabulary.image_ids(), ids(&expected["code_to_id"]));
    assert_eq!(vocabulary.len(), 480);
    let special = vocabulary.special();
    let found = json!({
        "<s>": special.bos, "<pad>": special.pad, "</s>": special.eos, "<unk>": 3,
        "<eoss>": special.end_image, "<racm3:break>": special.begin_image,
        "<reserved08706>": special.sep, "<image>": special.image_placeholder,
    });
    assert_eq!(found, expected["special_ids"]);
}

#[test]
fn prompts_equal_hugging_faces_with_codes_for_placeholders() {
    let expected = fixture_json("expected.json");
    let vocabulary = FIXTURE.vocabulary();
    let placeholder = vocabulary.special().image_placeholder.unwrap();
    assert_eq!(json!(FIXTURE.grid().0 * FIXTURE.grid().1), expected["image_seq_length"]);
    for case in expected["processor"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let images: Vec<Codes> = (0..case["images"].as_u64().unwrap() as u32).map(image8).collect();
        let mut codes = images.iter().flat_map(|image| &image.ids);
        let with_codes = |id| match id == placeholder {
            true => vocabulary.image_id(*codes.next().unwrap()).unwrap(),
            false => id,
        };
        let theirs: Vec<u32> = ids(&case["input_ids"]).into_iter().map(with_codes).collect();
        assert_eq!(codes.next(), None, "{text}");

        // Without text completion their processor ends the prompt with the separator.
        let ending = if case["text_completion"].as_bool().unwrap() { "" } else { "<sep>" };
        let template = Template::prompt(&format!("{text}{ending}")).unwrap();
        let ours = FIXTURE.encode(&template.fill(&[], images).unwrap()).unwrap();
        assert_eq!(ours, theirs, "{text}");
    }
}

/// An image of 8x8 codes below 100.
fn image8(start: u32) -> Codes {
    Codes { ids: (0..64).map(|i| (start * 31 + i * 7) % 100).collect(), height: 8, width: 8 }
}

#[test]
fn images_follow_token_names_where_ids_are_permuted() {
    let permuted =
        |id: u64| if (4..104).contains(&id) { 4 + ((id - 4) * 37 + 11) % 100 } else { id };
    let tokenizer = changed_tokenizer(|file| {
        for id in file["model"]["vocab"].as_object_mut().unwrap().values_mut() {
            *id = json!(permuted(id.as_u64().unwrap()));
        }
        for token in file["added_tokens"].as_array_mut().unwrap() {
            token["id"] = json!(permuted(token["id"].as_u64().unwrap()));
        }
    });
    let processor = Processor::new(tokenizer, (8, 8)).unwrap();
    let image = [CodedSegment::Image(image8(3))];
    let encoded = processor.encode(&image).unwrap();
    for (id, code) in encoded[2..66].iter().zip(&image8(3).ids) {
        assert_eq!(u64::from(*id), permuted(4 + u64::from(*code)));
        assert_eq!(processor.text().token(*id), Some(code_token(*code)));
    }
    assert_eq!(processor.decode(&encoded).unwrap(), image);
}

#[test]
fn a_tokenizer_of_the_original_release_has_its_placeholder_by_number() {
    let tokenizer = changed_tokenizer(|file| {
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("<image>").unwrap();
        vocab.insert("<reserved08707>".into(), id);
        let tokens = file["added_tokens"].as_array_mut().unwrap().iter_mut();
        tokens.filter(|t| t["content"] == "<image>").for_each(|t| {
            t["content"] = json!("<reserved08707>");
        });
        file["post_processor"] = Value::Null;
    });
    assert_eq!(tokenizer.vocabulary().unwrap().special().image_placeholder, Some(109));
    assert!(tokenizer.encode_with_specials("").unwrap().is_empty());
}

#[test]
fn plain_text_stays_text_whatever_the_file_says_of_its_added_tokens() {
    let texts =
        ["<racm3:break>IMGIMGAZ<eoss>", "a</s>b", "IMGIMGBAZ", "<image>", "x<reserved08706>"];
    let not_special = |file: &mut Value| {
        for token in file["added_tokens"].as_array_mut().unwrap() {
            token["special"] = json!(false);
        }
    };
    let whole_words = |file: &mut Value| file["model"]["ignore_merges"] = json!(true);
    let merged = |file: &mut Value| {
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        let size = vocab.len();
        let pairs = [("I", "M"), ("IM", "G"), ("IMG", "IMG"), ("A", "Z"), ("IMGIMG", "AZ")];
        for (index, (left, right)) in pairs[..4].iter().enumerate() {
            vocab.insert(format!("{left}{right}"), json!(size + index));
        }
        let merges = file["model"]["merges"].as_array_mut().unwrap();
        merges.extend(pairs.map(|(left, right)| json!([left, right])));
    };
    let changes: [&dyn Fn(&mut Value); 4] = [&|_| (), &not_special, &whole_words, &merged];
    for (index, change) in changes.iter().enumerate() {
        let tokenizer = changed_tokenizer(|file| change(file));
        for text in texts {
            let encoded = tokenizer.encode_plain(text).unwrap();
            assert_eq!(tokenizer.decode(&encoded).unwrap(), text, "change {index}");
            for id in encoded {
                let name = tokenizer.token(id).unwrap();
                assert_eq!(TokenClass::of_name(&name), TokenClass::Text, "change {index}: {name}");
            }
        }
        let control = tokenizer.encode("<racm3:break>IMGIMGAZ").unwrap();
        assert_eq!(control, [105, 4], "change {index}");
        assert_eq!(tokenizer.decode(&control).unwrap(), "", "change {index}");
    }
}

#[test]
fn text_is_neither_cut_nor_padded() {
    let tokenizer = changed_tokenizer(|file| {
        file["truncation"] = json!({
            "max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"
        });
        file["padding"] = json!({
            "strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"
        });
    });
    let text = "The image shows two dogs.";
    assert_eq!(tokenizer.encode(text).unwrap(), fixture_tokenizer().encode(text).unwrap());
}

#[test]
fn streamed_text_of_other_decoders_equals_the_whole() {
    let tokenizer = changed_tokenizer(|file| file["decoder"] = json!({"type": "Fuse"}));
    let encoded = tokenizer.encode_plain("The image — 日本語 shows").unwrap();
    let mut stream = tokenizer.stream();
    let parts: Vec<String> = encoded.iter().map(|id| stream.push(*id).unwrap()).collect();
    let rest = stream.finish().unwrap();
    assert_eq!(parts.concat() + &rest, tokenizer.decode(&encoded).unwrap());
}

/// Captions like those of the shipped data sets.
fn captions() -> Vec<String> {
    let colours = ["red", "green", "blue", "yellow"];
    let shapes = ["circle", "square", "triangle", "star"];
    let pairs = colours.iter().flat_map(|c| shapes.iter().map(move |s| (c, s)));
    pairs
        .enumerate()
        .map(|(i, (colour, shape))| format!("There are {} {colour} {shape}s, isn't it?\n", i * 13))
        .collect()
}

fn small() -> BpeConfig {
    BpeConfig { vocab_size: 420, num_codes: 16, ..BpeConfig::default() }
}

pub static TRAINED: LazyLock<Processor> =
    LazyLock::new(|| Processor::new(train_bpe(&small(), captions()).unwrap(), (2, 3)).unwrap());

#[test]
fn training_twice_gives_the_same_bytes() {
    let bytes = || train_bpe(&small(), captions()).unwrap().to_bytes().unwrap();
    let first = bytes();
    assert_eq!(first, bytes());
    let again = TextTokenizer::from_bytes(&first).unwrap();
    assert_eq!(again.to_bytes().unwrap(), first);
    let text = "There are 13 green stars — 日本";
    assert_eq!(again.encode_plain(text).unwrap(), TRAINED.text().encode_plain(text).unwrap());
}

#[test]
fn a_trained_vocabulary_has_exactly_the_configured_size() {
    for (size, texts) in [(294, captions()), (330, captions()), (4096, captions()), (300, vec![])] {
        let config = BpeConfig { vocab_size: size, ..small() };
        let tokenizer = train_bpe(&config, texts).unwrap();
        assert_eq!(tokenizer.vocab_size(), size);
        let vocabulary = tokenizer.vocabulary().unwrap();
        assert_eq!(vocabulary.len(), size);
        assert_eq!(vocabulary.image_ids(), (4..20).collect::<Vec<u32>>());
        let special = vocabulary.special();
        let low = [special.bos.unwrap(), special.pad, special.eos];
        assert_eq!(low, [0, 1, 2]);
        let marks =
            [special.end_image.unwrap(), special.begin_image.unwrap(), special.sep.unwrap()];
        assert_eq!(marks, [20, 21, 24]);
        assert_eq!(special.image_placeholder, Some(25));
    }
}

#[test]
fn words_are_learned_and_digits_stay_single() {
    let tokenizer = TRAINED.text();
    assert_eq!(tokenizer.encode_plain(" circles").unwrap().len(), 1);
    let digits = tokenizer.encode_plain("2019").unwrap();
    let names: Vec<String> = digits.iter().map(|id| tokenizer.token(*id).unwrap()).collect();
    assert_eq!(names, ["2", "0", "1", "9"]);
    assert_eq!(tokenizer.encode_with_specials("a").unwrap()[0], 0);
}

#[test]
fn token_names_in_the_corpus_are_never_learned() {
    let corpus: Vec<String> = (0..200)
        .map(|i| {
            format!("IMGIMG{}IMGIMGAZ IMGIMGBAZ <s></s><racm3:break> {}", "A", code_token(i % 16))
        })
        .collect();
    let tokenizer = train_bpe(&small(), corpus.iter()).unwrap();
    tokenizer.vocabulary().unwrap();
    for text in &corpus[..16] {
        let encoded = tokenizer.encode_plain(text).unwrap();
        assert_eq!(&tokenizer.decode(&encoded).unwrap(), text);
    }
}

pub fn image(codes: [u32; 6]) -> CodedSegment {
    CodedSegment::Image(Codes { ids: codes.to_vec(), height: 2, width: 3 })
}

#[test]
fn begin_image_and_end_of_text_are_optional_endings() {
    let segments = [CodedSegment::text("a"), image([1, 2, 3, 4, 5, 6])];
    let special = TRAINED.vocabulary().special();
    let prompt = TRAINED.encode(&segments).unwrap();
    assert_eq!(prompt.len(), 2 + TRAINED.blocks().block_len(TRAINED.grid()));
    let open = EncodeOptions { open_image: true, ..EncodeOptions::default() };
    let open = TRAINED.encode_with(&segments, open).unwrap();
    assert_eq!(open, [prompt.clone(), vec![special.begin_image.unwrap()]].concat());
    let document = TRAINED.document(&segments).unwrap();
    assert_eq!(document.ids, [prompt, vec![special.eos]].concat());
    assert_eq!(document.loss_mask.iter().filter(|target| **target).count(), document.len() - 1);
    assert!(!document.loss_mask[0]);
}

#[test]
fn decoding_stops_at_a_faulty_block_and_keeps_what_came_before() {
    let text = CodedSegment::text("a");
    let whole = TRAINED.encode(&[text.clone(), image([1, 2, 3, 4, 5, 6])]).unwrap();
    // <s> a <begin> 1 2 3 4 5 6 <end>
    assert_eq!(whole.len(), 10);
    TRAINED.decode(&whole[..9]).unwrap();
    let special = TRAINED.vocabulary().special();
    let code = whole[3];
    let cases = [
        (whole[..5].to_vec(), "image at 2 is cut off after 2 of its 6 codes"),
        (whole[..3].to_vec(), "image at 2 is cut off after 0 of its 6 codes"),
        (
            [&whole[..5], &[special.end_image.unwrap()][..]].concat(),
            "image at 2 is closed after 2 of",
        ),
        ([&whole[..5], &whole[1..2]].concat(), "image at 2 holds a token that is no code after 2"),
        ([&whole[..9], &[code][..]].concat(), "image at 2 goes on after 6"),
        ([&whole[..2], &[code][..]].concat(), "image token outside an image at 2"),
        (
            [&whole[..2], &[special.end_image.unwrap()][..]].concat(),
            "end of an image outside an image at 2",
        ),
        ([&whole[..2], &[9999][..]].concat(), "id 9999 at 2 is beyond the vocabulary of 420"),
    ];
    for (ids, message) in cases {
        let error = TRAINED.decode(&ids).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
        let (segments, fault) = TRAINED.decode_until_fault(&ids);
        assert_eq!(segments, std::slice::from_ref(&text));
        assert_eq!(fault.unwrap().to_string(), error);
    }
}

#[test]
fn segments_that_do_not_fit_are_errors() {
    let message = |segment| TRAINED.encode(&[segment]).unwrap_err().to_string();
    assert!(message(image([0, 1, 2, 3, 4, 16])).contains("code 16 is beyond the vocabulary's 16"));
    let tall = Codes { ids: vec![0; 6], height: 3, width: 2 };
    assert!(message(CodedSegment::Image(tall)).contains("3 rows and 2 columns"));
    for name in [BEGIN_IMAGE_TOKEN, "<eoss>", "IMGIMGAZ", "a", "<sep>", "<nothing>"] {
        assert!(message(CodedSegment::Special(name.to_owned())).contains("not the name of"));
    }
    assert!(Processor::new(fixture_tokenizer(), (0, 8)).is_err());
}

#[test]
fn conversations_out_of_order_are_errors() {
    let user = || Turn::user(vec![CodedSegment::text("u")]);
    let assistant = || Turn::assistant(vec![CodedSegment::text("a")]);
    let message = |turns: &[Turn]| TRAINED.chat(turns).unwrap_err().to_string();
    assert!(message(&[]).contains("at least one turn"));
    assert!(message(&[assistant()]).starts_with("turn 1 is by Assistant"));
    assert!(message(&[user(), user()]).starts_with("turn 2 is by User"));
    assert!(message(&[user()]).contains("the last of 1 turns is by User"));
    let sep = Turn::assistant(vec![CodedSegment::sep()]);
    assert!(message(&[user(), sep]).contains(SEP_TOKEN));
    assert!(TRAINED.chat_prompt(&[user(), assistant()]).is_err());
    let prompt = TRAINED.chat_prompt(&[user(), assistant(), user()]).unwrap();
    let whole = TRAINED.chat(&[user(), assistant(), user(), assistant()]).unwrap();
    assert_eq!(prompt, whole.ids[..prompt.len()]);
    assert_eq!(prompt.last(), Some(&TRAINED.vocabulary().special().sep.unwrap()));
}
