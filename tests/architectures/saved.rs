//! The checkpoint written by this program and opened again.

use burn::tensor::Device;
use calumma::checkpoint::{Checkpoint, Parts, write_directory};
use calumma::generate::ServingModel;
use calumma::tokenize::ChatTemplate;
use tensor_files::StoredDtype;

use crate::Case;
use crate::compare::{Outcome, same, same_bits};
use crate::folder::Folder;
use crate::opened::Opened;

pub fn cases(folder: &Folder) -> Vec<Case> {
    if !folder.has("logits") && !folder.has("image_text.logits") {
        return Vec::new();
    }
    vec![
        Case::new("saved and opened again: configuration", |opened| {
            same(&again(opened)?.config, opened.serving.config())
        }),
        Case::new("saved and opened again: logits", logits),
        Case::new("saved and opened again: chat template", |opened| {
            let again = again(opened)?.processor;
            let source = |template: Option<&ChatTemplate>| {
                template.map(|template| template.source().to_owned())
            };
            same(&source(again.chat_template()), &source(opened.processor.chat_template()))
        }),
    ]
}

fn again(opened: &Opened<'_>) -> Result<Checkpoint, String> {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("saved");
    let generation = serde_json::Map::new();
    let parts = Parts {
        config: opened.serving.config(),
        weights: Some(tensor_files::on_device(opened.serving.model())),
        dtype: StoredDtype::F32,
        processor: &opened.processor,
        vq: opened.vq.as_ref(),
        generation: &generation,
    };
    write_directory(&dir, |dir| parts.write(dir)).map_err(|error| error.to_string())?;
    Checkpoint::open(&dir, &Device::flex()).map_err(|error| error.to_string())
}

fn logits(opened: &Opened<'_>) -> Outcome {
    let Checkpoint { config, model, .. } = again(opened)?;
    let again = ServingModel::new(config, model, Device::flex());
    let ids = opened.folder.rows().remove(0);
    let of = |model: &ServingModel| {
        let logits = model.all_logits(&ids).map_err(|error| error.to_string())?;
        Ok::<_, String>(logits.concat())
    };
    same_bits(&of(&again)?, &of(&opened.serving)?)
}
