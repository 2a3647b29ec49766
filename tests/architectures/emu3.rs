//! Emu3: the image tokenizer, rows of text and images, and drawings under the grammar.

use burn::tensor::{Device, Int, Tensor, TensorData};
use calumma::generate::{GenerationConfig, GenerationMode, Generator, Request};
use calumma::tokenize::{CodedSegment, EncodeOptions};
use vq_tokenizer::{Codes, VqModel};

use crate::Case;
use crate::compare::{LOGITS, LOSS, Outcome, Tolerance, all_close, close, same};
use crate::folder::Folder;
use crate::opened::Opened;
use crate::training::gradient;
use crate::values::flat;

/// Of latents and pixels.
const LATENTS: Tolerance = Tolerance { absolute: 2e-4, relative: 0.0 };
/// The strength of guidance in the fixture.
const SCALE: f32 = 3.0;

pub fn cases(folder: &Folder) -> Vec<Case> {
    if !folder.has("vq.codes") {
        return Vec::new();
    }
    let mut cases = vec![
        Case::new("vq.encoder_out", |opened| {
            let found = model(opened)?.encoder.forward(pixels(opened)).into_data();
            close(&found, &opened.folder.floats("vq.encoder_out"), LATENTS)
        }),
        Case::new("vq.latents", |opened| {
            let found = model(opened)?.latents(pixels(opened)).into_data();
            close(&found, &opened.folder.floats("vq.latents"), LATENTS)
        }),
        Case::new("vq.codes", |opened| {
            let model = model(opened)?;
            let found = model.codes(model.latents(pixels(opened))).into_data();
            let found: Vec<u32> = found.iter::<u32>().collect();
            same(&found, &opened.folder.ids("vq.codes").concat())
        }),
        Case::new("vq.decoded", decoded),
        Case::new("vq.image_ids", |opened| {
            let found = image_ids(opened)?;
            same(&found, &opened.folder.ids("vq.image_ids"))
        }),
        Case::new("image_text.input_ids with the images' ids", placeholders),
        Case::new("image_text.logits", |opened| {
            close(&opened.whole().logits, &opened.folder.floats("image_text.logits"), LOGITS)
        }),
        Case::new("image_text.loss", |opened| {
            let total = opened.step().total() as f32;
            all_close(&[total], &flat(&opened.folder.floats("image_text.loss")), LOSS)
        }),
        Case::new("draw.ids", |opened| {
            let found = drawn(opened, 1.0, Vec::new())?;
            same(&found, &opened.folder.ids("draw.ids")[0])
        }),
        Case::new("draw.guided_ids", |opened| {
            let found = drawn(opened, SCALE, Vec::new())?;
            same(&found, &opened.folder.ids("draw.guided_ids")[0])
        }),
        Case::new("draw.guided_ids with their second prompt as the negative one", |opened| {
            let mut negative = opened.folder.ids("draw.unconditional_prompt_ids").remove(0);
            let begin = opened.processor.vocabulary().special().begin_image;
            let block = negative.iter().position(|id| Some(*id) == begin);
            negative.truncate(block.ok_or("the second prompt opens no image")?);
            let found = drawn(opened, SCALE, negative)?;
            same(&found, &opened.folder.ids("draw.guided_ids")[0])
        }),
    ];
    for name in folder.names("image_text.grad.") {
        cases.push(Case::new(name.clone(), move |opened| {
            let own = name.trim_start_matches("image_text.grad.");
            gradient(opened, &name, &own.replace("model.text_model.", "model."))
        }));
    }
    cases
}

fn model<'a>(opened: &'a Opened<'_>) -> Result<&'a VqModel, String> {
    let vq = opened.vq.as_ref().ok_or("there is no image tokenizer")?;
    Ok(vq.model())
}

fn pixels(opened: &Opened<'_>) -> Tensor<4> {
    Tensor::from_data(opened.folder.floats("vq.pixel_values"), &Device::flex())
}

/// The codes of each image of the fixture.
fn codes(opened: &Opened<'_>) -> Vec<Codes> {
    let rows = opened.folder.ids("vq.codes");
    let width = rows[0].len();
    let height = rows.len() / opened.folder.ids("vq.image_ids").len();
    let images = rows.chunks(height);
    images.map(|rows| Codes { ids: rows.concat(), height, width }).collect()
}

fn decoded(opened: &Opened<'_>) -> Outcome {
    let codes = codes(opened);
    let shape = [codes.len(), codes[0].height, codes[0].width];
    let ids: Vec<i32> = codes.iter().flat_map(|codes| &codes.ids).map(|id| *id as i32).collect();
    let ids = Tensor::<3, Int>::from_data(TensorData::new(ids, shape), &Device::flex());
    let found = model(opened)?.pixels(ids).into_data();
    close(&found, &opened.folder.floats("vq.decoded"), LATENTS)
}

/// The ids of each image, its size and the brackets left out.
fn image_ids(opened: &Opened<'_>) -> Result<Vec<Vec<u32>>, String> {
    let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
    let blocks = opened.processor.blocks();
    let of_one = |codes: Codes| {
        let size = blocks.opening((codes.height, codes.width)).map_err(|e| e.to_string())?.len();
        let segments = [CodedSegment::Image(codes)];
        let block = opened.processor.encode_with(&segments, options).map_err(|e| e.to_string())?;
        Ok(block[1 + size..block.len() - 2].to_vec())
    };
    codes(opened).into_iter().map(of_one).collect()
}

/// The rows with placeholders, in which each image's ids take the places of its own.
fn placeholders(opened: &Opened<'_>) -> Outcome {
    let placeholder = opened.processor.vocabulary().special().image_placeholder;
    let mut rows = opened.folder.ids("image_text.input_ids");
    for (row, ids) in rows.iter_mut().zip(image_ids(opened)?) {
        let places = row.iter_mut().filter(|id| Some(**id) == placeholder);
        places.zip(ids).for_each(|(place, id)| *place = id);
    }
    same(&rows, &opened.folder.ids("image_text.inline_input_ids"))
}

/// The prompt with the greedy drawing after it, up to end-of-text.
fn drawn(opened: &Opened<'_>, scale: f32, negative: Vec<u32>) -> Result<Vec<u32>, String> {
    let prompt = opened.folder.ids("draw.prompt_ids").remove(0);
    let config = GenerationConfig {
        guidance_scale: scale,
        mode: GenerationMode::Auto,
        ..GenerationConfig::default().greedy()
    };
    let request = Request { negative, ..Request::new(prompt.clone(), config) };
    let blocks = opened.processor.blocks().clone();
    let generator = Generator::new(&opened.serving, opened.processor.vocabulary(), blocks)
        .map_err(|error| error.to_string())?;
    let mut generated =
        generator.run(vec![request], &mut |_, _| Ok(())).map_err(|error| error.to_string())?;
    Ok([prompt, generated.remove(0).ids].concat())
}
