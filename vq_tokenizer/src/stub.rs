#![allow(missing_docs, unused_variables, clippy::todo)]
use crate::*;
use burn::tensor::{Device,Tensor};
use image::RgbImage;
use std::path::Path;
#[derive(Debug)]
pub struct VqTokenizer;
impl VqTokenizer {
    pub fn new(config: VqConfig, p: preprocess::PreprocessorConfig, model: VqModel, device: Device) -> Self { unimplemented!() }
    pub fn load(dir: &Path, device: &Device) -> Result<Self> { unimplemented!() }
    pub fn save(&self, dir: &Path) -> Result<()> { unimplemented!() }
    pub fn encode(&self, i: &[RgbImage]) -> Result<Vec<Codes>> { unimplemented!() }
    pub fn decode(&self, i: &[Codes]) -> Result<Vec<RgbImage>> { unimplemented!() }
    pub fn config(&self) -> &VqConfig { unimplemented!() }
    pub fn resolution(&self) -> usize { unimplemented!() }
}
pub mod preprocess { use super::*;
#[derive(Clone)]
pub struct PreprocessorConfig;
impl PreprocessorConfig { pub fn original(r: usize) -> Self { unimplemented!() } pub fn resize(&self, i: &RgbImage) -> RgbImage { unimplemented!() } pub fn tensor(&self, i: &[RgbImage], d: &Device) -> Result<Tensor<4>> { unimplemented!() } }
}
pub mod metrics { use super::*;
pub struct CodebookUsage; impl CodebookUsage { pub fn new(n: usize) -> Self { unimplemented!() } pub fn add(&mut self, ids: &[u32]) {} pub fn used_share(&self)->f64 {0.} pub fn perplexity(&self)->f64{0.} }
pub fn psnr(a:&RgbImage,b:&RgbImage)->Result<f64>{unimplemented!()} pub fn ssim(a:&RgbImage,b:&RgbImage)->Result<f64>{unimplemented!()} }
