//! Documents of instruction tuning and of preferences: ids and labels equal TRL's.

use std::path::{Path, PathBuf};

use calumma::data::pack::{Packer, best_fit_decreasing};
use calumma::data::{
    self, AnswerLayout, DocumentData, Encoding, Loss, PreferenceRow, SourceConfig, TemplateConfig,
    TooLong, Validation, validation_batches,
};
use calumma::tokenize::{ChatTemplate, EOS_TOKEN, Processor, TextTokenizer, TokenSequence};
use serde_json::{Value, json};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{VqConfig, VqTokenizer};

use crate::common::cpu;

type Outcome = Result<(), String>;

/// Rows without a limit of their own are shorter than this.
const UNLIMITED: usize = 4096;
/// The label of an id that is not learnt.
const IGNORED: i64 = -100;

/// What a case asks for; an unknown key is an error.
#[derive(Debug, Default, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    assistant_only: bool,
    completion_only: Option<bool>,
    max_length: Option<usize>,
    packing: bool,
}

/// The tokenizers of a file of cases.
pub struct Setting {
    pub processor: Processor,
    vq: VqTokenizer,
    dir: tempfile::TempDir,
}

/// Every case of the file `json`, by its name, with the tokenizer in `tokenizer_dir`.
pub fn check(json: &Path, tokenizer_dir: &Path) -> Vec<(String, Outcome)> {
    let file: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let setting = Setting::open(&file, tokenizer_dir);
    let mut outcomes = vec![
        ("ids".to_owned(), setting.check_ids(&file["ids"])),
        ("alpaca_templates".to_owned(), setting.check_alpaca(&file["alpaca_templates"])),
    ];
    for (name, case) in file["cases"].as_object().unwrap() {
        // The flattened batch is that of the packed rows.
        let made_of = if case.get("rows").is_some() { case } else { &file["cases"]["packed"] };
        let outcome = setting.check_case(case, made_of);
        outcomes.push((name.clone(), outcome));
    }
    outcomes
}

impl Setting {
    pub fn open(file: &Value, tokenizer_dir: &Path) -> Self {
        let text = TextTokenizer::load(&tokenizer_dir.join("tokenizer.json")).unwrap();
        let template = ChatTemplate::new(file["chat_template"].as_str().unwrap(), "chat_template");
        let processor = Processor::new(text, (1, 1)).unwrap().with_chat_template(Some(template));
        // No case has images.
        let config: VqConfig = serde_json::from_value(json!({
            "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "attn_resolutions": [],
            "latent_channels": 8, "embed_dim": 8, "num_embeddings": 16, "resolution": 16,
        }))
        .unwrap();
        let vq = config.init(&cpu());
        let vq = VqTokenizer::new(config, PreprocessorConfig::original(16), vq, cpu());
        Self { processor, vq, dir: tempfile::tempdir().unwrap() }
    }

    fn check_ids(&self, ids: &Value) -> Outcome {
        for (token, id) in ids.as_object().unwrap() {
            let found = self.processor.text().encode(token).unwrap();
            same(token, &json!(found), &json!([id]))?;
        }
        Ok(())
    }

    /// The template by name against the texts of the file.
    fn check_alpaca(&self, texts: &Value) -> Outcome {
        for (key, input) in [("with_input", "a {b}"), ("without_input", "")] {
            let row = json!({ "instruction": "say {it}", "input": input, "output": "yes" });
            let template = texts[key].as_str().unwrap();
            let prompt = template.replace("{instruction}", "say {it}").replace("{input}", input);
            let row_of_trl = json!({ "prompt": prompt, "completion": "yes" });
            let ours = self.document(&row, &["alpaca"], Loss::Answers, None)?;
            let theirs = self.document(&row_of_trl, &[PLAIN], Loss::Answers, None)?;
            same(key, &json!(labels(&ours)), &json!(labels(&theirs)))?;
        }
        Ok(())
    }

    fn check_case(&self, case: &Value, made_of: &Value) -> Outcome {
        let rows = made_of["rows"].as_array().ok_or("there are no rows")?;
        if rows.iter().any(|row| row.get("chosen").is_some()) {
            return self.check_preference(case, rows);
        }
        let settings = made_of.get("settings").cloned().unwrap_or(json!({}));
        let settings: Settings = serde_json::from_value(settings).map_err(|e| e.to_string())?;
        if settings.packing {
            return self.check_packed(case, rows, &settings);
        }
        let mut documents = Vec::new();
        for row in rows {
            documents.extend(self.row(row, &settings, settings.max_length)?);
        }
        if let Some(left) = case.get("rows_left") {
            return same("rows_left", &json!(documents.len()), left);
        }
        let expected = case["result"].as_array().ok_or("there is no result")?;
        same("the number of rows", &json!(documents.len()), &json!(expected.len()))?;
        for (document, expected) in documents.iter().zip(expected) {
            same("input_ids", &json!(document.ids), &expected["input_ids"])?;
            let expected = without_firsts(&expected["labels"], &[document.len()]);
            same("labels", &json!(labels(&Some(document.clone()))), &expected)?;
        }
        Ok(())
    }

    /// TRL's packing: rows are cut, none is left out; a batch of several rows is one long row.
    fn check_packed(&self, case: &Value, rows: &[Value], settings: &Settings) -> Outcome {
        let max_length = settings.max_length.ok_or("packing without max_length")?;
        let mut documents = Vec::new();
        for row in rows {
            let document = self.row(row, settings, None)?.ok_or("a row gave no document")?;
            documents.push(self.processor.truncated(document, max_length));
        }
        let lens: Vec<usize> = documents.iter().map(TokenSequence::len).collect();
        let packed = best_fit_decreasing(&lens, max_length);
        let packed: Vec<Vec<TokenSequence>> = packed
            .iter()
            .map(|row| row.iter().map(|index| documents[*index].clone()).collect())
            .collect();
        match case.get("result") {
            Some(result) => {
                let result = result.as_array().ok_or("the result is no list")?;
                same("the number of rows", &json!(packed.len()), &json!(result.len()))?;
                for (row, expected) in packed.iter().zip(result) {
                    let lens: Vec<usize> = row.iter().map(TokenSequence::len).collect();
                    same("seq_lengths", &json!(lens), &expected["seq_lengths"])?;
                    same("input_ids", &json!(ids_of(row)), &expected["input_ids"])?;
                    let expected = without_firsts(&expected["labels"], &lens);
                    same("labels", &json!(labels_of(row)), &expected)?;
                }
                Ok(())
            }
            None => flattened(&packed.concat(), case),
        }
    }

    fn check_preference(&self, case: &Value, rows: &[Value]) -> Outcome {
        let layout = AnswerLayout::new(&self.processor).map_err(|e| e.to_string())?;
        let rows: Vec<Value> = rows.iter().map(|row| unclosed(row.clone())).collect();
        let dataset = data::open(&self.write(&rows)).map_err(|e| e.to_string())?;
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        let expected = case["ids"].as_array().ok_or("there are no ids")?;
        same("the number of rows", &json!(dataset.len()), &json!(expected.len()))?;
        for (index, expected) in expected.iter().enumerate() {
            let row = PreferenceRow::of(&dataset.fields(index).map_err(|e| e.to_string())?);
            let pair = layout.preference(&row.map_err(|e| e.to_string())?, &[]);
            let pair = pair.map_err(|e| e.to_string())?;
            same("prompt_ids", &json!(pair.prompt), &expected["prompt_ids"])?;
            same("chosen_ids", &json!(pair.chosen), &expected["chosen_ids"])?;
            same("rejected_ids", &json!(pair.rejected), &expected["rejected_ids"])?;
            let [one, other] = pair.documents();
            chosen.push(one);
            rejected.push(other);
        }
        let all = [chosen, rejected].concat();
        let longest = all.iter().map(TokenSequence::len).max().unwrap_or(0);
        let pad = self.processor.vocabulary().special().pad;
        let row = |value: &dyn Fn(&TokenSequence) -> Vec<u32>, padding: u32| -> Value {
            let padded = all.iter().map(|document| {
                let mut row = value(document);
                row.resize(longest, padding);
                row
            });
            json!(padded.collect::<Vec<_>>())
        };
        let batch = &case["batch"];
        same("input_ids", &row(&|d| d.ids.clone(), pad), &batch["input_ids"])?;
        same("attention_mask", &row(&|d| vec![1; d.len()], 0), &batch["attention_mask"])?;
        let mask = |d: &TokenSequence| d.loss_mask.iter().map(|is| u32::from(*is)).collect();
        same("completion_mask", &row(&mask, 0), &batch["completion_mask"])
    }

    /// The document of a row of TRL; `None` if nothing in it is learnt once it is cut to `max_length`.
    fn row(
        &self,
        row: &Value,
        settings: &Settings,
        max_length: Option<usize>,
    ) -> Result<Option<TokenSequence>, String> {
        let row = unclosed(row.clone());
        let completion_only = settings.completion_only.unwrap_or(row.get("completion").is_some());
        let (row, template, loss) = match (row.get("messages"), row["prompt"].is_array()) {
            (Some(_), _) if completion_only => return Err("messages have no completion".to_owned()),
            (Some(_), _) if settings.assistant_only => (row, "chat_template", Loss::Answers),
            (Some(_), _) => (row, "chat_template", Loss::All),
            (None, true) if completion_only && settings.assistant_only => {
                (row, "chat_template", Loss::Answers)
            }
            (None, true) if completion_only => (row, "chat_template", Loss::LastAnswer),
            (None, true) => {
                let sides =
                    ["prompt", "completion"].map(|side| row[side].as_array().unwrap().clone());
                let settings = Settings { completion_only: None, ..settings.clone() };
                return self.row(&json!({ "messages": sides.concat() }), &settings, max_length);
            }
            (None, false) if settings.assistant_only => {
                return Err("assistant_only without messages".to_owned());
            }
            (None, false) if row.get("text").is_some() => (row, "{text}", Loss::All),
            (None, false) if row.get("instruction").is_some() => (row, "alpaca", Loss::Answers),
            (None, false) => (row, PLAIN, if completion_only { Loss::Answers } else { Loss::All }),
        };
        self.document(&row, &[template], loss, max_length)
    }

    /// The document of `row`, by way of a file, a source and a packer.
    pub fn document(
        &self,
        row: &Value,
        templates: &[&str],
        loss: Loss,
        max_length: Option<usize>,
    ) -> Result<Option<TokenSequence>, String> {
        let source = SourceConfig::new(self.write(std::slice::from_ref(row)));
        let template = TemplateConfig::new(templates.iter().map(|t| (*t).to_owned()));
        let mut config = DocumentData::samples(source, TemplateConfig { loss, ..template });
        config.too_long = TooLong::Truncate;
        let cache_dir = self.cache_dir();
        let encoding = self.encoding(&cache_dir);
        let pad = self.processor.vocabulary().special().pad;
        let packer = || Packer::new(1, max_length.unwrap_or(UNLIMITED), pad);
        let found = validation_batches(&[config], encoding, 1, &self.processor, packer);
        let Validation { batches, left_out } = found.map_err(|error| error.to_string())?;
        let Some(batch) = batches.first() else {
            let counts = (left_out[0].unlearnt, left_out[0].too_long, left_out[0].bad);
            return if counts == (1, 0, 0) { Ok(None) } else { Err(format!("{left_out:?}")) };
        };
        let len = batch.packed.num_tokens();
        let (ids, mask) = (&batch.packed.ids[..len], &batch.packed.loss_mask[..len]);
        Ok(Some(TokenSequence { ids: ids.to_vec(), loss_mask: mask.to_vec() }))
    }

    pub fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("codes")
    }

    pub fn encoding<'a>(&'a self, cache_dir: &'a Path) -> Encoding<'a> {
        Encoding { vq: Some(&self.vq), digest: "none", cache_dir, quiet: true }
    }

    /// The path of a file with `rows`.
    pub fn write(&self, rows: &[Value]) -> String {
        let path = self.dir.path().join("rows.jsonl");
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Prompt and completion without anything between them.
const PLAIN: &str = "{prompt}<answer>{completion}";

/// `row` without the end-of-text at the end of its texts, which the program writes itself.
fn unclosed(mut row: Value) -> Value {
    for key in ["text", "completion", "chosen", "rejected"] {
        if let Some(text) = row[key].as_str().and_then(|text| text.strip_suffix(EOS_TOKEN)) {
            row[key] = text.into();
        }
    }
    if let Some(row) = row.as_object_mut() {
        row.retain(|_, value| !value.is_null());
    }
    row
}

/// The batch of all documents one after another: the first label of each is ignored.
fn flattened(documents: &[TokenSequence], case: &Value) -> Outcome {
    let positions: Vec<usize> = documents.iter().flat_map(|document| 0..document.len()).collect();
    let mut ends = vec![0];
    for document in documents {
        ends.push(ends[ends.len() - 1] + document.len());
    }
    same("input_ids", &json!([ids_of(documents)]), &case["input_ids"])?;
    same("labels", &json!([labels_of(documents)]), &case["labels"])?;
    same("position_ids", &json!([positions]), &case["position_ids"])?;
    same("cu_seq_lens_q", &json!(ends), &case["cu_seq_lens_q"])
}

fn ids_of(documents: &[TokenSequence]) -> Vec<u32> {
    documents.iter().flat_map(|document| document.ids.clone()).collect()
}

fn labels_of(documents: &[TokenSequence]) -> Vec<i64> {
    documents.iter().flat_map(|document| labels(&Some(document.clone()))).collect()
}

pub fn labels(document: &Option<TokenSequence>) -> Vec<i64> {
    let Some(TokenSequence { ids, loss_mask }) = document else { return Vec::new() };
    let label = |(id, learnt): (&u32, &bool)| if *learnt { i64::from(*id) } else { IGNORED };
    ids.iter().zip(loss_mask).map(label).collect()
}

/// `labels` of documents with the lengths `lens`, where the first label of each is ignored: nothing predicts it,
/// and here it is never a target.
fn without_firsts(labels: &Value, lens: &[usize]) -> Value {
    let mut labels = labels.clone();
    let mut start = 0;
    for len in lens {
        if let Some(first) = labels.get_mut(start) {
            *first = IGNORED.into();
        }
        start += len;
    }
    labels
}

fn same(what: &str, found: &Value, expected: &Value) -> Outcome {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found}, expected {expected}")),
    }
}
