//! Makes a checkpoint with random weights in the shape of Chameleon, with any number of layers, to measure
//! loading, memory and speed without the released weights.
//!
//! ```text
//! cargo run --release --example random_checkpoint -- DEST [--shape 7b|30b] [--layers 4]
//!     [--dtype bf16|f32] [--seed 1]
//! calumma bench DEST --precision bf16
//! ```
//!
//! The vocabulary has the size of the release (65,536 ids, 8,192 of them codes); so has the image
//! tokenizer (512 pixels, 1,024 codes), in f32. A 7B shape with 4 layers in bf16 takes 3.0 GB of disk space.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use calumma::checkpoint::{Parts, SHARD_SIZE, write_directory, write_weights};
use calumma::device::DeviceSpec;
use calumma::generate::Preset;
use calumma::model::ModelConfig;
use calumma::tokenize::{BpeConfig, Processor, train_bpe};
use clap::{Parser, ValueEnum};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensor_files::{StoredDtype, TensorInfo, shapes};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{VqConfig, VqTokenizer};

#[derive(Parser)]
struct Args {
    /// Directory to create
    dest: PathBuf,
    /// Sizes of the layers
    #[arg(long, value_enum, default_value_t = Shape::SevenB)]
    shape: Shape,
    /// Number of layers
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Number format of the language model
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Random seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    #[value(name = "7b")]
    SevenB,
    #[value(name = "30b")]
    ThirtyB,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    Bf16,
    F32,
}

impl Shape {
    fn config(self, layers: usize) -> ModelConfig {
        let seven = ModelConfig { num_hidden_layers: layers, ..ModelConfig::default() };
        match self {
            Self::SevenB => seven,
            Self::ThirtyB => ModelConfig {
                hidden_size: 8192,
                intermediate_size: 22_016,
                num_attention_heads: 64,
                num_key_value_heads: 8,
                swin_norm: true,
                model_parallel_size: 4,
                ..seven
            },
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let device = DeviceSpec::Cpu.open()?;
    let config = args.shape.config(args.layers);
    let vocabulary = BpeConfig {
        vocab_size: config.vocab_size,
        num_codes: 8192,
        num_reserved: 512,
        ..BpeConfig::default()
    };
    let text = train_bpe(&vocabulary, [""])?;
    let vq_config = VqConfig::default();
    let preprocessor = PreprocessorConfig::original(vq_config.resolution);
    let vq =
        VqTokenizer::new(vq_config.clone(), preprocessor, vq_config.init(&device), device.clone());
    let processor = Processor::new(text, vq.grid())?;
    let (stored, dtype) = match args.dtype {
        Dtype::Bf16 => (safetensors::Dtype::BF16, StoredDtype::Bf16),
        Dtype::F32 => (safetensors::Dtype::F32, StoredDtype::F32),
    };
    let tensors: Vec<TensorInfo> = shapes(&config.init(&device)?)
        .into_iter()
        .map(|(name, shape)| (name, stored, shape))
        .collect();
    let values = Values::new(config.initializer_range as f32);
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    write_directory(&args.dest, |dir| {
        let generation = Preset::Chameleon.to_json();
        let (vq, processor) = (Some(&vq), &processor);
        let parts =
            Parts { config: &config, weights: None, dtype, processor, vq, generation: &generation };
        parts.write(dir)?;
        write_weights(dir, &tensors, SHARD_SIZE, |name| {
            let (_, _, shape) = tensors.iter().find(|(known, ..)| known == name).expect("its name");
            let mut bits = vec![0; 2 * shape.iter().product::<usize>()];
            rng.fill_bytes(&mut bits);
            Ok(values.bytes(&bits, name.contains("norm") && name.ends_with("weight"), args.dtype))
        })
    })?;
    println!("{}", args.dest.display());
    Ok(())
}

/// Tables from 16 random bits to weights in bfloat16: uniform with a given standard deviation and mean 0,
/// for norms 1.
struct Values {
    weights: Vec<u16>,
    norms: Vec<u16>,
}

impl Values {
    fn new(deviation: f32) -> Self {
        let widest = deviation * 3.0_f32.sqrt();
        let value = |bits: u16| widest * (f32::from(bits) / 32_768.0 - 1.0);
        let upper = |value: f32| (value.to_bits() >> 16) as u16;
        let table = |mean: f32| (0..=u16::MAX).map(|bits| upper(mean + value(bits))).collect();
        Self { weights: table(0.0), norms: table(1.0) }
    }

    fn bytes(&self, bits: &[u8], is_norm: bool, dtype: Dtype) -> Vec<u8> {
        let table = if is_norm { &self.norms } else { &self.weights };
        let values =
            bits.chunks_exact(2).map(|b| table[usize::from(u16::from_le_bytes([b[0], b[1]]))]);
        match dtype {
            Dtype::Bf16 => values.flat_map(u16::to_le_bytes).collect(),
            Dtype::F32 => values.flat_map(|upper| (u32::from(upper) << 16).to_le_bytes()).collect(),
        }
    }
}
