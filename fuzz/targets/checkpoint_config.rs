#![no_main]
//! The configuration files of a checkpoint; the first byte says which.

use calumma::checkpoint::config_from_json;
use calumma::generate::GenerationConfig;
use calumma::tokenize::{PromptTemplates, TextTokenizer};
use libfuzzer_sys::fuzz_target;
use vq_tokenizer::VqConfig;
use vq_tokenizer::preprocess::PreprocessorConfig;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, content)) = bytes.split_first() else { return };
    let text = || String::from_utf8_lossy(content);
    match kind {
        b'c' => {
            if let Ok(json) = serde_json::from_slice(content) {
                let _ = config_from_json(&json);
            }
        }
        b'g' => {
            let _ = GenerationConfig::from_json(&text());
            let _ = PromptTemplates::from_json(&text()).map(|prompts| prompts.validate());
        }
        b'p' => drop(PreprocessorConfig::load(&calumma_fuzz::file(content, "json"))),
        b't' => {
            if let Ok(tokenizer) = TextTokenizer::from_bytes(content) {
                let _ = tokenizer.vocabulary();
                let _ = tokenizer.encode_plain("what colour is <image> it?");
            }
        }
        _ => drop(VqConfig::load(&calumma_fuzz::file(content, "json"))),
    }
});
