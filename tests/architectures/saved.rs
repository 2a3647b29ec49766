//! The checkpoint written by this program and opened again.

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::Device;
use calumma::checkpoint::{Checkpoint, Parts, write_directory};
use calumma::generate::ServingModel;
use calumma::tokenize::ChatTemplate;
use tensor_files::StoredDtype;

use crate::Case;
use crate::compare::{LOGITS, Outcome, all_close, same, same_bits};
use crate::folder::Folder;
use crate::opened::Opened;

pub fn cases(folder: &Folder) -> Vec<Case> {
    if !folder.has("logits") && !folder.has("image_text.logits") {
        return Vec::new();
    }
    let mut cases = vec![
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
    ];
    // `tests/post_training_peers.sh` has one.
    if let Ok(python) = std::env::var("CALUMMA_POST_TRAINING_PYTHON") {
        let name = "saved: logits of transformers with it";
        cases.push(Case::new(name, move |opened| of_transformers(opened, &python)));
    }
    cases
}

/// The checkpoint opened again.
fn again(opened: &Opened<'_>) -> Result<Checkpoint, String> {
    let scratch = tempfile::tempdir().unwrap();
    let dir = saved(opened, scratch.path())?;
    Checkpoint::open(&dir, &Device::flex()).map_err(|error| error.to_string())
}

/// The directory of the checkpoint as a training run writes it, below `scratch`.
fn saved(opened: &Opened<'_>, scratch: &Path) -> Result<PathBuf, String> {
    let dir = scratch.join("saved");
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
    Ok(dir)
}

fn of_transformers(opened: &Opened<'_>, python: &str) -> Outcome {
    let scratch = tempfile::tempdir().unwrap();
    let dir = saved(opened, scratch.path())?;
    let [ids, out] = ["ids.json", "out.json"].map(|name| scratch.path().join(name));
    let row = opened.folder.rows().remove(0);
    std::fs::write(&ids, serde_json::to_string(&row).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/saved_peer.py");
    let done = Command::new(python).arg(script).args([&dir, &ids, &out]).output().unwrap();
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    let theirs: Vec<f32> = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let ours = opened.serving.all_logits(&row).map_err(|error| error.to_string())?.concat();
    all_close(&ours, &theirs, LOGITS)
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
