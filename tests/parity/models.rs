//! The transformer: hidden states, logits, and the same from the original release's layout.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use calumma::checkpoint::{Checkpoint, Conversion, Layout, meta, weight_files};
use calumma::generate::Preset;
use calumma::model::{CausalLm, ModelInput, mask};
use calumma::tokenize::Processor;
use vq_tokenizer::VqTokenizer;

use crate::excess::excess;
use crate::values::{Values, flat};
use crate::{Table, bfloat16, expected, generation, name};

pub const ABSOLUTE: f32 = 2e-4;
pub const RELATIVE: f32 = 1e-4;

pub fn device() -> Device {
    Device::flex()
}

fn ints(rows: &[Vec<u32>]) -> Tensor<2, Int> {
    let values: Vec<i32> = rows.iter().flatten().map(|&id| id as i32).collect();
    Tensor::from_data(TensorData::new(values, [rows.len(), rows[0].len()]), &device())
}

/// Hidden states and logits of rows whose positions include padding; `shown` is false for padding.
pub fn forward(
    model: &CausalLm,
    rows: &[Vec<u32>],
    shown: &[Vec<bool>],
    mut on_layer: impl FnMut(usize, Vec<f32>),
) -> (Vec<f32>, Vec<f32>) {
    let seq = rows[0].len();
    let positions = vec![(0..seq as u32).collect::<Vec<_>>(); rows.len()];
    // Padding is a document of its own, so that the rest does not see it.
    let documents: Vec<u32> = shown.iter().flatten().map(|shown| u32::from(*shown)).collect();
    let mut layer = 0;
    let input = ModelInput {
        ids: ints(rows),
        positions: ints(&positions),
        mask: mask::packed(&documents, rows.len(), &device()),
    };
    let hidden = model.hidden_states(input, |x| {
        on_layer(layer, flat(&x.to_data()));
        layer += 1;
    });
    let logits = model.logits(hidden.clone());
    (flat(&hidden.to_data()), flat(&logits.to_data()))
}

/// The values of the tokens that `shown` marks.
fn visible(values: &[f32], shown: &[Vec<bool>]) -> Vec<f32> {
    let tokens: Vec<bool> = shown.iter().flatten().copied().collect();
    let rows = values.chunks_exact(values.len() / tokens.len()).zip(tokens);
    rows.filter(|(_, shown)| *shown).flat_map(|(row, _)| row.to_vec()).collect()
}

/// Compares the checkpoint in `dir` with the values next to the model in `reference`.
pub fn check(table: &mut Table, title: &str, dir: &Path, reference: &Path) {
    let Some(values) = expected(reference) else { return };
    if !dir.join("config.json").is_file() {
        return; // only the values of a release
    }
    let checkpoint = Checkpoint::open(dir, &device());
    let checkpoint = match checkpoint {
        Ok(checkpoint) => checkpoint,
        Err(error) => return table.exact(&format!("{title} opens: {error}"), || false),
    };
    let names = values.names();
    let cases = names.iter().filter_map(|name| name.strip_suffix(".raw_logits"));
    for case in cases {
        logits(table, title, case, &values, &checkpoint);
    }
    if values.has("text_short.logits_bf16") {
        bfloat16::check(table, title, dir, &values);
    }
    generation::check(table, title, &values, checkpoint);
    table.exact(&format!("{title} to our layout and back, bit for bit"), || {
        let scratch = tempfile::tempdir().unwrap();
        let (ours, back) = (scratch.path().join("ours"), scratch.path().join("back"));
        Conversion::to(Layout::Calumma).run(dir, &ours).unwrap();
        Conversion::to(Layout::HuggingFace).run(&ours, &back).unwrap();
        let (before, after) = (weight_files(dir).unwrap().1, weight_files(&back).unwrap().1);
        before
            .tensors()
            .all(|(name, ..)| before.stored(name).unwrap() == after.stored(name).unwrap())
    });
}

fn logits(table: &mut Table, title: &str, case: &str, values: &Values, checkpoint: &Checkpoint) {
    let key = |part: &str| format!("{case}.{part}");
    let rows = match values.has(&key("inline_input_ids")) {
        true => values.ids(&key("inline_input_ids")),
        false if values.has(&key("image_token_ids")) => inline(values, case, checkpoint),
        false => values.ids(&key("input_ids")),
    };
    let shown = match values.has(&key("attention_mask")) {
        true => values
            .rows(&key("attention_mask"))
            .iter()
            .map(|r| r.iter().map(|a| *a == 1).collect())
            .collect(),
        false => vec![vec![true; rows[0].len()]; rows.len()],
    };
    let mut layers = 0.0_f32;
    let (hidden, logits) = forward(&checkpoint.model, &rows, &shown, |layer, found| {
        let name = key(&format!("hidden.{layer}"));
        if values.has(&name) {
            layers = layers.max(excess(&found, &flat(&values.floats(&name)), ABSOLUTE, RELATIVE));
        }
    });
    table.case(&format!("{title} {case} hidden states"), || layers);
    for (what, found) in [("last_hidden_state", hidden), ("raw_logits", logits)] {
        table.case(&format!("{title} {case} {what}"), || {
            let want = visible(&flat(&values.floats(&key(what))), &shown);
            excess(&visible(&found, &shown), &want, ABSOLUTE, RELATIVE)
        });
    }
    if let Some(vq) = checkpoint.vq.as_ref().filter(|_| values.has(&key("pixel_values"))) {
        table.exact(&format!("{title} {case} image ids"), || {
            let ids = image_ids(vq, &checkpoint.processor, values.floats(&key("pixel_values")));
            ids == values.ids(&key("image_token_ids")).concat()
        });
    }
}

/// The image ids of the images in `pixels`, in order.
pub fn image_ids(vq: &VqTokenizer, processor: &Processor, pixels: TensorData) -> Vec<u32> {
    let pixels = Tensor::<4>::from_data(pixels, &device());
    let codes = vq.model().codes(vq.model().latents(pixels)).into_data();
    codes.iter::<u32>().map(|code| processor.vocabulary().image_id(code).unwrap()).collect()
}

/// The rows of `case` with the images' ids in place of the placeholders.
fn inline(values: &Values, case: &str, checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let placeholder = checkpoint.processor.vocabulary().special().image_placeholder.unwrap();
    let mut ids = values.ids(&format!("{case}.image_token_ids")).concat().into_iter();
    let mut fill = |id: u32| if id == placeholder { ids.next().unwrap() } else { id };
    let rows = values.ids(&format!("{case}.input_ids"));
    rows.into_iter().map(|row| row.into_iter().map(&mut fill).collect()).collect()
}

/// Imports the release in `dir`, compares it with the Hugging Face model of the same name and exports it.
pub fn check_release(table: &mut Table, root: &Path, dir: &Path) {
    let title = format!("meta/{}", name(dir));
    let scratch = tempfile::tempdir().unwrap();
    let (imported, back) = (scratch.path().join("imported"), scratch.path().join("back"));
    if let Err(error) = meta::import(dir, &imported, Preset::Chameleon, &device()) {
        return table.exact(&format!("{title} is imported: {error}"), || false);
    }
    check(table, &title, &imported, &root.join("models").join(name(dir)));
    table.exact(&format!("{title} comes back bit for bit"), || {
        meta::export(&imported, &back).unwrap();
        same_tensors(dir, &back)
    });
    crate::image_tokenizer::check_vqgan(table, &title, dir, &imported);
}

/// Whether the release in `b` holds every tensor of the one in `a` unchanged.
fn same_tensors(a: &Path, b: &Path) -> bool {
    use calumma::checkpoint::torch_file::TorchFile;
    let model = |dir: &Path| crate::folders(&dir.join("models")).remove(0);
    let (from, to) = (model(a), model(b));
    let mut pairs: Vec<_> = std::fs::read_dir(&from).unwrap().map(|e| e.unwrap().path()).collect();
    pairs.retain(|path| path.extension().is_some_and(|e| e == "pth"));
    let mut pairs: Vec<_> =
        pairs.iter().map(|path| (path.clone(), to.join(path.file_name().unwrap()))).collect();
    let ckpt = a.join("tokenizer/vqgan.ckpt");
    if ckpt.is_file() {
        pairs.push((ckpt, b.join("tokenizer/vqgan.ckpt")));
    }
    pairs.iter().all(|(a, b)| {
        let (a, b) = (TorchFile::open(a).unwrap(), TorchFile::open(b).unwrap());
        // Rotary frequencies follow from the configuration; exports have none.
        let names =
            a.tensors().keys().filter(|name| *name != "rope.freqs" && !name.contains("loss."));
        names.into_iter().all(|name| {
            a.tensors()[name] == b.tensors()[name] && a.read(name).unwrap() == b.read(name).unwrap()
        })
    })
}
