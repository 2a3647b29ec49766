//! A trained image tokenizer with its settings: images to codes and back.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use image::RgbImage;

use crate::Codes;
use crate::config::VqConfig;
use crate::error::{Error, Result};
use crate::folded::{FoldedTensors, is_unfolded};
use crate::model::VqModel;
use crate::preprocess::{PreprocessorConfig, to_images};
use tensor_files::{StoredDtype, TensorSource, WeightFiles};

/// Pixels in a batch: 64 images of 64x64, one of 512x512.
const BATCH_PIXELS: usize = 1 << 18;

/// A VQ model with its configuration, preprocessing and device.
#[derive(Debug)]
pub struct VqTokenizer {
    config: VqConfig,
    preprocessor: PreprocessorConfig,
    model: VqModel,
    device: Device,
}

impl VqTokenizer {
    /// A tokenizer from its parts; `model` is on `device`, outside autodiff.
    pub fn new(
        config: VqConfig,
        preprocessor: PreprocessorConfig,
        model: VqModel,
        device: Device,
    ) -> Self {
        Self { config, preprocessor, model, device }
    }

    /// Opens a directory with `config.json`, `model.safetensors` and `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::File`] for one whose content does not fit,
    /// [`Error::Tensors`] for the weights: all missing, unexpected and mis-shaped tensors are listed.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let config = VqConfig::load(&dir.join("config.json"))?;
        let path = dir.join("preprocessor_config.json");
        let preprocessor = PreprocessorConfig::load(&path)?;
        let factor = config.downsampling();
        if preprocessor.rule.has_sizes() && !preprocessor.size_multiple.is_multiple_of(factor) {
            let unit = preprocessor.size_multiple;
            let message = format!("size_multiple is {unit}; it must be a multiple of {factor}");
            return Err(Error::file(&path, message));
        }
        let (height, width) = (preprocessor.crop_height, preprocessor.crop_width);
        if !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            return Err(Error::file(
                &path,
                format!("crop_size is {width}x{height}; both must be multiples of {factor}"),
            ));
        }
        let path = dir.join("model.safetensors");
        Self::from_tensors(config, preprocessor, WeightFiles::open(&path)?, &path, device)
    }

    /// A tokenizer with the weights in `tensors`; without a decoder's among them it only encodes.
    ///
    /// `origin` names their source in errors.
    ///
    /// # Errors
    /// [`Error::Tensors`] if they cannot be read or do not fit `config`.
    pub fn from_tensors(
        config: VqConfig,
        preprocessor: PreprocessorConfig,
        tensors: impl TensorSource,
        origin: &Path,
        device: &Device,
    ) -> Result<Self> {
        let mut model = config.init(device);
        if !tensors.names().iter().any(|name| name.starts_with("decoder.")) {
            model.decoder = None;
        }
        let model = match tensors.names().iter().any(|name| is_unfolded(name)) {
            true => {
                let tensors =
                    FoldedTensors::new(tensors, &config).map_err(Error::in_file(origin))?;
                tensor_files::load(model, tensors, origin)?
            }
            false => tensor_files::load(model, tensors, origin)?,
        };
        Ok(Self::new(config, preprocessor, model, device.clone()))
    }

    /// Whether it can decode.
    pub fn has_decoder(&self) -> bool {
        self.model.decoder.is_some()
    }

    /// Writes what [`VqTokenizer::load`] reads into the existing directory `dir`; weights in f32.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file that could not be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.save_as(dir, StoredDtype::F32)
    }

    /// As [`Self::save`], with the weights rounded to `dtype`.
    ///
    /// Loading widens them to f32; latents near the border of two codes may then get the other code.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_as(&self, dir: &Path, dtype: StoredDtype) -> Result<()> {
        self.config.save(&dir.join("config.json"))?;
        self.preprocessor.save(&dir.join("preprocessor_config.json"))?;
        let tensors = tensor_files::on_device(&self.model);
        Ok(tensor_files::write(&dir.join("model.safetensors"), &tensors, dtype)?)
    }

    /// The codes of each image; images of any size are resized and cropped first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an image has no pixels.
    pub fn encode(&self, images: &[RgbImage]) -> Result<Vec<Codes>> {
        if let Some(at) = images.iter().position(|image| image.as_raw().is_empty()) {
            return Err(Error::invalid(format!("image {at} has no pixels")));
        }
        let size = self.preprocessor.crop_height * self.preprocessor.crop_width;
        let mut codes = Vec::with_capacity(images.len());
        for images in images.chunks((BATCH_PIXELS / size).max(1)) {
            let images: Vec<_> = images.iter().map(|i| self.preprocessor.resize(i)).collect();
            for images in images.chunk_by(|a, b| a.dimensions() == b.dimensions()) {
                let pixels = self.preprocessor.tensor(images, &self.device)?;
                let batch = self.model.codes(self.model.latents(pixels)); // [batch, h, w]
                let [_, height, width] = batch.dims();
                let ids: Vec<u32> = batch.into_data().iter::<u32>().collect();
                let of_one = |ids: &[u32]| Codes { ids: ids.to_vec(), height, width };
                codes.extend(ids.chunks_exact(height * width).map(of_one));
            }
        }
        Ok(codes)
    }

    /// The image of each grid of codes, which may have any size up to 8192 pixels a side.
    ///
    /// # Errors
    /// [`Error::NoDecoder`]; [`Error::Invalid`] if a grid is empty or too large, has another number of
    /// codes than rows times columns, or holds a code that is not in the codebook.
    pub fn decode(&self, codes: &[Codes]) -> Result<Vec<RgbImage>> {
        self.check_decoder()?;
        codes.iter().try_for_each(|codes| self.check(codes))?;
        let mut images = Vec::with_capacity(codes.len());
        for grid in codes.chunk_by(|a, b| (a.height, a.width) == (b.height, b.width)) {
            let (height, width) = (grid[0].height, grid[0].width);
            let size = height * width * self.config.downsampling().pow(2);
            for batch in grid.chunks((BATCH_PIXELS / size).max(1)) {
                let ids: Vec<i32> =
                    batch.iter().flat_map(|codes| &codes.ids).map(|id| *id as i32).collect();
                let ids = TensorData::new(ids, [batch.len(), height, width]);
                let ids = Tensor::<3, Int>::from_data(ids, &self.device);
                images.extend(to_images(self.model.pixels(ids)));
            }
        }
        Ok(images)
    }

    /// Checks size and content of a grid.
    fn check(&self, codes: &Codes) -> Result<()> {
        /// In pixels.
        const MAX_SIDE: usize = 8192;
        let (height, width) = (codes.height, codes.width);
        let longest = MAX_SIDE / self.config.downsampling();
        if height == 0 || width == 0 || height > longest || width > longest {
            return Err(Error::invalid(format!(
                "a grid of {height}x{width} codes; allowed: sides of 1 to {longest}"
            )));
        }
        self.check_content(codes)
    }

    pub(crate) fn check_decoder(&self) -> Result<()> {
        match self.has_decoder() {
            true => Ok(()),
            false => Err(Error::NoDecoder),
        }
    }

    /// Checks that a grid has as many codes as rows times columns, all of them in the codebook.
    pub(crate) fn check_content(&self, codes: &Codes) -> Result<()> {
        let (height, width, len) = (codes.height, codes.width, codes.ids.len());
        if height == 0 || width == 0 || len != height * width {
            return Err(Error::invalid(format!("{len} codes for a grid of {height}x{width}")));
        }
        let size = self.config.num_embeddings;
        match codes.ids.iter().find(|id| **id as usize >= size) {
            Some(id) => Err(Error::invalid(format!(
                "code {id} is not in the codebook; allowed: 0 to {}",
                size - 1
            ))),
            None => Ok(()),
        }
    }

    /// The model's shape.
    pub fn config(&self) -> &VqConfig {
        &self.config
    }

    /// How images are resized, cropped and scaled.
    pub fn preprocessor(&self) -> &PreprocessorConfig {
        &self.preprocessor
    }

    /// The device of the networks.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The networks.
    pub fn model(&self) -> &VqModel {
        &self.model
    }

    /// Rows and columns of codes of an encoded image.
    pub fn grid(&self) -> (usize, usize) {
        let factor = self.config.downsampling();
        (self.preprocessor.crop_height / factor, self.preprocessor.crop_width / factor)
    }

    /// Codes of an encoded image.
    pub fn codes_per_image(&self) -> usize {
        let (height, width) = self.grid();
        height * width
    }

    /// Side of the images that the model was configured for, in pixels.
    pub fn resolution(&self) -> usize {
        self.config.resolution
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn tokenizer() -> VqTokenizer {
        let device = Device::flex();
        let config = VqConfig {
            base_channels: 32,
            channel_multiplier: vec![1, 2],
            num_res_blocks: 1,
            attn_resolutions: Some(vec![8]),
            resolution: 16,
            latent_channels: 6,
            embed_dim: 5,
            num_embeddings: 11,
            ..VqConfig::default()
        };
        let model = config.init(&device);
        VqTokenizer::new(config, PreprocessorConfig::original(16), model, device)
    }

    fn image(seed: u32) -> RgbImage {
        RgbImage::from_fn(20, 16, |x, y| {
            image::Rgb([(x * 12 + seed * 40) as u8, (y * 15) as u8, (x * y + seed) as u8])
        })
    }

    #[test]
    fn a_saved_tokenizer_loads_as_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer();
        tokenizer.save(dir.path()).unwrap();
        let loaded = VqTokenizer::load(dir.path(), &Device::flex()).unwrap();
        assert_eq!(loaded.config(), tokenizer.config());
        assert_eq!(loaded.preprocessor(), tokenizer.preprocessor());
        let images = [image(1), image(2)];
        let codes = tokenizer.encode(&images).unwrap();
        assert_eq!(loaded.encode(&images).unwrap(), codes);
        assert_eq!(loaded.decode(&codes).unwrap(), tokenizer.decode(&codes).unwrap());
    }

    #[test]
    fn an_image_encodes_alone_as_in_a_batch() {
        let tokenizer = tokenizer();
        let images: Vec<_> = (0..3).map(image).collect();
        let batch = tokenizer.encode(&images).unwrap();
        assert_eq!((batch[0].height, batch[0].width), tokenizer.grid());
        assert_eq!(batch[0].ids.len(), tokenizer.codes_per_image());
        for (image, codes) in images.iter().zip(&batch) {
            assert_eq!(&tokenizer.encode(std::slice::from_ref(image)).unwrap()[0], codes);
        }
    }

    #[test]
    fn grids_of_several_shapes_decode_in_order() {
        let tokenizer = tokenizer();
        let grid = |height: usize, width: usize| Codes {
            ids: (0..height * width).map(|i| i as u32 % 11).collect(),
            height,
            width,
        };
        let images = tokenizer.decode(&[grid(8, 8), grid(2, 5), grid(8, 8)]).unwrap();
        let sizes: Vec<_> = images.iter().map(RgbImage::dimensions).collect();
        assert_eq!(sizes, [(16, 16), (10, 4), (16, 16)]);
        assert_eq!(images[0], images[2]);
    }

    #[test]
    fn bad_codes_are_refused_by_name() {
        let refused = |ids: Vec<u32>, height, width| {
            tokenizer().decode(&[Codes { ids, height, width }]).unwrap_err().to_string()
        };
        assert!(refused(vec![0, 11], 1, 2).contains("code 11"));
        assert!(refused(vec![0, 1, 2], 1, 2).contains("3 codes for a grid of 1x2"));
        assert!(refused(vec![], 0, 2).contains("0x2"));
    }

    #[test]
    fn a_truncated_weight_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        tokenizer().save(dir.path()).unwrap();
        let path = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
        let message = VqTokenizer::load(dir.path(), &Device::flex()).unwrap_err().to_string();
        assert!(message.contains("model.safetensors"), "{message}");
    }
}
