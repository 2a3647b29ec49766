//! Checkpoints of other projects: Hugging Face's directories as downloaded, the original release's layout.

use std::collections::BTreeMap;
use std::path::Path;

use calumma::checkpoint::torch_file::{self, TorchFile};
use calumma::checkpoint::{Checkpoint, Conversion, Layout, RotaryOrder, meta, weight_files};
use calumma::generate::{GenerationConfig, GenerationMode, Preset};
use calumma::pipeline::Pipeline;
use calumma::tokenize::Segment;
use image::RgbImage;
use safetensors::Dtype;
use tensor_files::{StoredDtype, StoredTensor, WeightFiles};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{VqConfig, VqTokenizer};

use crate::common::{cpu, fixture};

const HF: &str = "models/prenorm-gqa";
const RELEASE: &str = "meta/swin-gqa-mp2-bf16";

pub fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn image() -> RgbImage {
    RgbImage::from_fn(40, 32, |x, y| image::Rgb([x as u8 * 6, y as u8 * 7, 90]))
}

/// The original release's image tokenizer of [`HF`], its encoder from there and its decoder from `vqgan`.
fn whole_tokenizer() -> VqTokenizer {
    let json = std::fs::read(fixture(HF).join("config.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let config: VqConfig = serde_json::from_value(json["vq_config"].clone()).unwrap();
    let path = fixture("vqgan/decoder.safetensors");
    let mut tensors = tensor_files::read(&path).unwrap();
    let prefixed = tensor_files::read(&fixture(HF).join("model.safetensors")).unwrap();
    let encoder = prefixed
        .into_iter()
        .filter_map(|(name, data)| Some((name.strip_prefix("model.vqmodel.")?.to_owned(), data)));
    tensors.extend(encoder);
    let preprocessor = PreprocessorConfig::hugging_face(config.resolution);
    VqTokenizer::from_tensors(config, preprocessor, tensors, &path, &cpu()).unwrap()
}

#[test]
fn a_hugging_face_directory_encodes_images_and_names_what_drawing_needs() {
    let pipeline = Pipeline::open(&fixture(HF), &cpu()).unwrap();
    assert_eq!(pipeline.prompts(), &Preset::Chameleon.prompts());
    assert_eq!(pipeline.generation().image_guidance_scale, Some(1.2));
    pipeline.caption(&image()).unwrap();
    let codes = pipeline.vq().unwrap().encode(&[image()]).unwrap();
    assert_eq!(codes[0].ids.len(), 64);
    let error = pipeline.draw("a circle").unwrap_err().to_string();
    for part in ["no VQGAN decoder", "tokenizer/vqgan.ckpt", "calumma import CHECKPOINT --vqgan"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(pipeline.vq().unwrap().decode(&codes).is_err());
    // No image is begun that could not be decoded.
    let config = GenerationConfig {
        mode: GenerationMode::Auto,
        max_new_tokens: Some(6),
        ..pipeline.generation().clone()
    };
    let segments = pipeline.generate(&[Segment::Text("x".into())], &config, |_| Ok(())).unwrap();
    assert!(segments.iter().all(|segment| matches!(segment, Segment::Text(_))));
}

#[test]
fn a_missing_decoder_can_be_added_to_a_hugging_face_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let [full, bare, release] = ["full", "bare", "release"].map(|name| scratch.path().join(name));
    copied(&fixture(HF), &full);
    copied(&fixture(HF), &bare);
    std::fs::create_dir(full.join("vq_tokenizer")).unwrap();
    whole_tokenizer().save(&full.join("vq_tokenizer")).unwrap();
    meta::export(&full, &release).unwrap();
    let ckpt = release.join("tokenizer/vqgan.ckpt");
    meta::add_vqgan(&bare, &ckpt, &cpu()).unwrap();
    let pipeline = Pipeline::open(&bare, &cpu()).unwrap();
    let (ours, theirs) = (pipeline.drawing_vq().unwrap(), whole_tokenizer());
    assert_eq!(ours.preprocessor(), theirs.preprocessor());
    let codes = theirs.encode(&[image()]).unwrap();
    assert_eq!(ours.encode(&[image()]).unwrap(), codes);
    assert_eq!(ours.decode(&codes).unwrap(), theirs.decode(&codes).unwrap());
    assert_eq!(pipeline.draw("a circle").unwrap().dimensions(), (32, 32));
    let again = meta::add_vqgan(&bare, &ckpt, &cpu()).unwrap_err().to_string();
    assert!(again.contains("already exists"), "{again}");
}

#[test]
fn a_missing_decoder_can_be_added_to_a_converted_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let [full, converted, release] =
        ["full", "converted", "release"].map(|name| scratch.path().join(name));
    copied(&fixture(HF), &full);
    std::fs::create_dir(full.join("vq_tokenizer")).unwrap();
    whole_tokenizer().save(&full.join("vq_tokenizer")).unwrap();
    meta::export(&full, &release).unwrap();
    Conversion::to(Layout::Calumma).run(&fixture(HF), &converted).unwrap();
    meta::add_vqgan(&converted, &release.join("tokenizer/vqgan.ckpt"), &cpu()).unwrap();
    calumma::checkpoint::Manifest::verify(&converted).unwrap();
    let pipeline = Pipeline::open(&converted, &cpu()).unwrap();
    assert_eq!(pipeline.drawing_vq().unwrap().preprocessor(), whole_tokenizer().preprocessor());
    assert!(!converted.join("vq_tokenizer.old").exists());
}

#[test]
fn a_release_in_two_parts_is_imported_and_exported_bit_for_bit() {
    let scratch = tempfile::tempdir().unwrap();
    let (imported, back) = (scratch.path().join("imported"), scratch.path().join("back"));
    meta::import(&fixture(RELEASE), &imported, Preset::Anole, &cpu()).unwrap();
    let checkpoint = Checkpoint::open(&imported, &cpu()).unwrap();
    assert_eq!(checkpoint.config.model_parallel_size, 2);
    // A turn ends with the separator, whatever the preset.
    let found = GenerationConfig { stop_ids: vec![], ..checkpoint.generation.clone() };
    assert_eq!(found, Preset::Anole.config());
    let stored = WeightFiles::open(&imported.join("model.safetensors")).unwrap();
    assert!(stored.tensors().all(|(_, dtype, _)| dtype == Dtype::BF16));
    meta::export(&imported, &back).unwrap();
    for part in ["consolidated.00.pth", "consolidated.01.pth"] {
        let ours = TorchFile::open(&back.join("models/model").join(part)).unwrap();
        let theirs = TorchFile::open(&fixture(RELEASE).join("models/tiny").join(part)).unwrap();
        // The rotary frequencies follow from the configuration; exports have none.
        for (name, info) in theirs.tensors().iter().filter(|(name, _)| *name != "rope.freqs") {
            assert_eq!(ours.tensors().get(name), Some(info), "{name}");
            assert_eq!(ours.read(name).unwrap(), theirs.read(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn an_image_tokenizer_among_the_tensors_is_exported_too() {
    let scratch = tempfile::tempdir().unwrap();
    let (release, back) = (scratch.path().join("release"), scratch.path().join("back"));
    meta::export(&fixture(HF), &release).unwrap();
    meta::import(&release, &back, Preset::Chameleon, &cpu()).unwrap();
    let of_model = WeightFiles::open(&fixture(HF).join("model.safetensors")).unwrap();
    let of_tokenizer = WeightFiles::open(&back.join("vq_tokenizer/model.safetensors")).unwrap();
    let of_transformer = WeightFiles::open(&back.join("model.safetensors")).unwrap();
    for (name, _, _) in of_model.tensors() {
        let found = match name.strip_prefix("model.vqmodel.") {
            Some(name) => of_tokenizer.stored(name),
            None => of_transformer.stored(name),
        };
        assert_eq!(found.unwrap(), of_model.stored(name).unwrap(), "{name}");
    }
}

/// Every tensor of the checkpoint in `dir`, by name.
fn tensors(dir: &Path) -> BTreeMap<String, StoredTensor> {
    let (_, files) = weight_files(dir).unwrap();
    let names: Vec<String> = files.tensors().map(|(name, ..)| name.to_owned()).collect();
    names.into_iter().map(|name| (name.clone(), files.stored(&name).unwrap())).collect()
}

#[test]
fn a_hugging_face_directory_is_converted_and_restored_bit_for_bit() {
    let scratch = tempfile::tempdir().unwrap();
    let (ours, back) = (scratch.path().join("ours"), scratch.path().join("back"));
    Conversion::to(Layout::Calumma).run(&fixture(HF), &ours).unwrap();
    assert!(tensors(&ours).keys().all(|name| !name.starts_with("model.vqmodel.")));
    let (converted, original) =
        (Pipeline::open(&ours, &cpu()).unwrap(), Pipeline::open(&fixture(HF), &cpu()).unwrap());
    assert_eq!(converted.prompts(), original.prompts());
    assert_eq!(converted.generation(), original.generation());
    assert_eq!(converted.caption(&image()).unwrap(), original.caption(&image()).unwrap());
    // This time in shards.
    let to_hf = Conversion { shard_size: 400_000, ..Conversion::to(Layout::HuggingFace) };
    to_hf.run(&ours, &back).unwrap();
    assert!(back.join("model-00002-of-00004.safetensors").is_file());
    assert_eq!(tensors(&back), tensors(&fixture(HF)));
    let json = |dir: &Path, name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap()
    };
    for name in ["config.json", "preprocessor_config.json", "processor_config.json"] {
        assert_eq!(json(&back, name), json(&fixture(HF), name), "{name}");
    }
    Pipeline::open(&back, &cpu()).unwrap();
}

#[test]
fn what_transformers_cannot_open_is_refused_and_what_it_needs_is_added() {
    let scratch = tempfile::tempdir().unwrap();
    let dest = scratch.path().join("hf");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo");
    let error = Conversion::to(Layout::HuggingFace).run(&demo, &dest).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let message = error.to_string();
    for part in ["vq_tokenizer/config.json", "16 channels", "a multiple of 32", "--layout hf"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    let source = scratch.path().join("source");
    copied(&fixture(HF), &source);
    let path = source.join("config.json");
    let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut bare = whole.clone();
    bare["vocabulary_map"] = serde_json::Value::Null;
    std::fs::write(&path, bare.to_string()).unwrap();
    Conversion::to(Layout::HuggingFace).run(&source, &dest).unwrap();
    let written = std::fs::read(dest.join("config.json")).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(written["vocabulary_map"], whole["vocabulary_map"]);
}

#[test]
fn weights_of_doubles_are_opened_as_pytorch_would() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    copied(&fixture(HF), &source);
    let path = source.join("model.safetensors");
    let stored = tensors(&source);
    let infos: Vec<_> = stored
        .iter()
        .map(|(name, tensor)| (name.clone(), Dtype::F64, tensor.shape.clone()))
        .collect();
    let doubles = |name: &str| {
        let values = stored[name].to_data(burn::tensor::FloatDType::F32)?;
        Ok::<_, tensor_files::Error>(
            values.iter::<f32>().flat_map(|value| f64::from(value).to_le_bytes()).collect(),
        )
    };
    tensor_files::write_file(&path, &infos, doubles).unwrap();
    let (ours, theirs) =
        (Pipeline::open(&source, &cpu()).unwrap(), Pipeline::open(&fixture(HF), &cpu()).unwrap());
    assert_eq!(ours.caption(&image()).unwrap(), theirs.caption(&image()).unwrap());
}

#[test]
fn a_tied_head_may_be_in_the_file_once_more_if_it_is_the_embedding() {
    let scratch = tempfile::tempdir().unwrap();
    let open = |head: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
        let dir = scratch.path().join("model");
        copied(&fixture(HF), &dir);
        let mut json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        json["tie_word_embeddings"] = true.into();
        std::fs::write(dir.join("config.json"), json.to_string()).unwrap();
        let mut stored = tensors(&dir);
        stored.remove("lm_head.weight");
        let embedding = stored["model.embed_tokens.weight"].clone();
        if let Some(bytes) = head(embedding.bytes.clone()) {
            stored.insert("lm_head.weight".to_owned(), StoredTensor { bytes, ..embedding });
        }
        let infos: Vec<_> = stored
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.dtype, tensor.shape.clone()))
            .collect();
        let bytes = |name: &str| Ok::<_, tensor_files::Error>(stored[name].bytes.clone());
        tensor_files::write_file(&dir.join("model.safetensors"), &infos, bytes).unwrap();
        let pipeline = Pipeline::open(&dir, &cpu()).map_err(|e| e.to_string())?;
        Ok::<_, String>(pipeline.caption(&image()).unwrap())
    };
    let alone = open(&|_| None).unwrap();
    assert_eq!(open(&Some), Ok(alone));
    let other = open(&|mut bytes| {
        bytes[5] ^= 1;
        Some(bytes)
    });
    let message = other.unwrap_err();
    for words in ["model.safetensors", "lm_head.weight", "tie_word_embeddings"] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn layouts_that_need_an_import_are_named_with_the_command() {
    let message = Checkpoint::open(&fixture(RELEASE), &cpu()).unwrap_err().to_string();
    assert!(
        message.contains("original release") && message.contains("calumma import"),
        "{message}"
    );
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    copied(&fixture(HF), &source);
    std::fs::rename(source.join("model.safetensors"), source.join("pytorch_model.bin")).unwrap();
    let message = Checkpoint::open(&source, &cpu()).unwrap_err().to_string();
    assert!(
        message.contains("PyTorch's format") && message.contains("calumma import"),
        "{message}"
    );
    let file = fixture(HF).join("config.json");
    let message = Checkpoint::open(&file, &cpu()).unwrap_err().to_string();
    assert!(message.contains("is a file; a checkpoint is a directory"), "{message}");
}

#[test]
fn every_file_of_a_checkpoint_may_be_a_pointer_of_git_lfs_and_is_called_one() {
    let scratch = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n";
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
    ];
    for name in names {
        let source = scratch.path().join(name);
        copied(&fixture(HF), &source);
        std::fs::write(source.join(name), pointer).unwrap();
        let message = Checkpoint::open(&source, &cpu()).unwrap_err().to_string();
        assert!(message.contains("git lfs pull") && message.contains(name), "{message}");
    }
}

#[test]
fn formats_change_on_request_and_the_image_tokenizer_never_to_bf16() {
    let scratch = tempfile::tempdir().unwrap();
    for (dtype, model, of_vq) in [
        (StoredDtype::Bf16, Dtype::BF16, Dtype::F32),
        (StoredDtype::F16, Dtype::F16, Dtype::F16),
        (StoredDtype::F32, Dtype::F32, Dtype::F32),
    ] {
        let dest = scratch.path().join(format!("{dtype:?}"));
        let to_hf = Conversion { dtype: Some(dtype), ..Conversion::to(Layout::HuggingFace) };
        to_hf.run(&fixture(HF), &dest).unwrap();
        for (name, tensor) in tensors(&dest) {
            let wanted = if name.starts_with("model.vqmodel.") { of_vq } else { model };
            assert_eq!(tensor.dtype, wanted, "{name}");
        }
        let config = std::fs::read_to_string(dest.join("config.json")).unwrap();
        let name = format!("{model:?}").to_lowercase();
        assert!(config.contains(&format!("\"dtype\": \"{}", &name[..1])), "{name}");
    }
}

#[test]
fn a_pytorch_file_of_anoles_training_code_gets_hugging_faces_order() {
    let scratch = tempfile::tempdir().unwrap();
    let (release, source, ours) = (
        scratch.path().join("release"),
        scratch.path().join("source"),
        scratch.path().join("ours"),
    );
    meta::export(&fixture(HF), &release).unwrap();
    let original = TorchFile::open(&release.join("models/model/consolidated.pth")).unwrap();
    const NAMES: [(&str, &str); 5] = [
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.q_norm", "attention.q_normalization"),
        ("self_attn.k_norm", "attention.k_normalization"),
        ("model.layers", "layers"),
    ];
    let renamed =
        |name: &str| NAMES.iter().fold(name.to_owned(), |n, (hf, meta)| n.replace(hf, meta));
    let stored = tensors(&fixture(HF));
    let read = |name: &str| match original.tensors().get(&renamed(name)) {
        Some(info) if renamed(name) != name && name.contains("self_attn") => {
            (info.clone(), original.read(&renamed(name)).unwrap())
        }
        _ => {
            let StoredTensor { dtype, shape, bytes } = stored[name].clone();
            (torch_file::TensorInfo { dtype, shape }, bytes)
        }
    };
    let infos: Vec<_> = stored.keys().map(|name| (name.clone(), read(name).0)).collect();
    assert!(
        infos.iter().any(|(name, info)| name.ends_with("q_norm.bias") && info.shape.len() == 1)
    );
    copied(&fixture(HF), &source);
    std::fs::remove_file(source.join("model.safetensors")).unwrap();
    let bin = source.join("pytorch_model.bin");
    torch_file::write(&bin, None, &infos, |name| Ok(read(name).1)).unwrap();
    let order = RotaryOrder::SideBySide;
    let conversion = Conversion { order, ..Conversion::to(Layout::HuggingFace) };
    conversion.run(&source, &ours).unwrap();
    assert_eq!(tensors(&ours), stored);
}

#[test]
fn an_incomplete_release_is_refused_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let dest = scratch.path().join("dest");
    let import = |source: &Path| {
        let error = meta::import(source, &dest, Preset::Chameleon, &cpu()).unwrap_err();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        error.to_string()
    };
    assert!(import(&fixture("images")).contains("no original release"));
    let half = tempfile::tempdir().unwrap();
    copied(&fixture(RELEASE).join("models/tiny"), half.path());
    copied(&fixture(RELEASE).join("tokenizer"), &half.path().join("tokenizer"));
    std::fs::remove_file(half.path().join("consolidated.01.pth")).unwrap();
    let message = import(half.path());
    assert!(message.contains("1 consolidated files; model_parallel_size is 2"), "{message}");
    std::fs::write(half.path().join("consolidated.01.pth"), b"PK").unwrap();
    assert!(import(half.path()).contains("consolidated.01.pth"));
}
