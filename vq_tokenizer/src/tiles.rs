//! Encoding and decoding tile by tile, for images too large to process at once, at their own size.
//!
//! Each tile is computed with a margin around it, and only its inner part is kept, so that borders between
//! tiles hardly show. Attention and normalisation see a tile instead of the whole image, so codes are close
//! to those of the whole image but not equal. An image that fits one tile is processed whole.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};
use image::{RgbImage, imageops};

use crate::error::{Error, Result};
use crate::preprocess::to_images;
use crate::{Codes, VqTokenizer};

/// The size of tiles in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Side of a tile, margins included.
    pub side: usize,
    /// Width of the border of a tile that is computed and discarded.
    pub margin: usize,
}

impl Default for Tiles {
    /// 512 pixels with margins of 64.
    fn default() -> Self {
        Self { side: 512, margin: 64 }
    }
}

/// The extent of a tile along one axis, in codes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    computed: Range<usize>,
    kept: Range<usize>,
}

/// The extents of tiles of `side` codes with `margin` on each side, over `len` codes.
fn spans(len: usize, side: usize, margin: usize) -> Vec<Span> {
    if len <= side {
        return vec![Span { computed: 0..len, kept: 0..len }];
    }
    let step = side - 2 * margin;
    let mut spans = Vec::new();
    let mut start = 0;
    while start < len {
        // The first tile has no outer margin, so it keeps more; the last is moved back to its full size.
        let end = if start == 0 { side - margin } else { start + step };
        let last = end + margin >= len;
        let kept = start..if last { len } else { end };
        let computed = match last {
            true => len - side..len,
            false => kept.end + margin - side..kept.end + margin,
        };
        start = kept.end;
        spans.push(Span { computed, kept });
    }
    spans
}

impl VqTokenizer {
    /// The codes of `image` at its own size, centre-cropped to multiples of the pixels per code.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the image is smaller than one code or the tiles are smaller than
    /// their margins.
    pub fn encode_tiled(&self, image: &RgbImage, tiles: Tiles) -> Result<Codes> {
        let factor = self.config().downsampling();
        let (side, margin) = self.tiles_in_codes(tiles)?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (columns, rows) = (width / factor, height / factor);
        if columns == 0 || rows == 0 {
            return Err(Error::invalid(format!(
                "an image of {width}x{height} pixels; allowed: sides of at least {factor}"
            )));
        }
        let (left, top) = ((width - columns * factor) / 2, (height - rows * factor) / 2);
        let mut ids = vec![0; rows * columns];
        for down in spans(rows, side, margin) {
            for across in spans(columns, side, margin) {
                let corner =
                    [left + across.computed.start * factor, top + down.computed.start * factor];
                let size = [across.computed.len() * factor, down.computed.len() * factor];
                let [x, y, w, h] = [corner[0], corner[1], size[0], size[1]].map(|v| v as u32);
                let tile = imageops::crop_imm(image, x, y, w, h).to_image();
                let pixels = self.preprocessor().pixels(&[tile], self.device())?;
                let codes = self.model().codes(self.model().latents(pixels)).into_data();
                let found: Vec<u32> = codes.iter::<u32>().collect();
                for row in down.kept.clone() {
                    let from = (row - down.computed.start) * across.computed.len();
                    let from = from + across.kept.start - across.computed.start;
                    let to = row * columns + across.kept.start;
                    let len = across.kept.len();
                    ids[to..to + len].copy_from_slice(&found[from..from + len]);
                }
            }
        }
        Ok(Codes { ids, height: rows, width: columns })
    }

    /// The image of `codes`, of any size.
    ///
    /// # Errors
    /// Those of [`VqTokenizer::decode`] without its limit on sides; if the tiles are smaller than their
    /// margins.
    pub fn decode_tiled(&self, codes: &Codes, tiles: Tiles) -> Result<RgbImage> {
        let factor = self.config().downsampling();
        let (side, margin) = self.tiles_in_codes(tiles)?;
        self.check_decoder()?;
        self.check_content(codes)?;
        let (rows, columns) = (codes.height, codes.width);
        let mut image = RgbImage::new((columns * factor) as u32, (rows * factor) as u32);
        for down in spans(rows, side, margin) {
            for across in spans(columns, side, margin) {
                let lines = down.computed.clone().flat_map(|row| {
                    let start = row * columns;
                    &codes.ids[start + across.computed.start..start + across.computed.end]
                });
                let ids: Vec<i32> = lines.map(|id| *id as i32).collect();
                let shape = [1, down.computed.len(), across.computed.len()];
                let ids = Tensor::<3, Int>::from_data(TensorData::new(ids, shape), self.device());
                let tile = &to_images(self.model().pixels(ids))[0];
                let offset =
                    |span: &Span| ((span.kept.start - span.computed.start) * factor) as u32;
                let size = |span: &Span| (span.kept.len() * factor) as u32;
                let kept = imageops::crop_imm(
                    tile,
                    offset(&across),
                    offset(&down),
                    size(&across),
                    size(&down),
                );
                let (x, y) = (across.kept.start * factor, down.kept.start * factor);
                imageops::replace(&mut image, &kept.to_image(), x as i64, y as i64);
            }
        }
        Ok(image)
    }

    /// Side and margin of `tiles` in codes.
    fn tiles_in_codes(&self, tiles: Tiles) -> Result<(usize, usize)> {
        let factor = self.config().downsampling();
        let (side, margin) = (tiles.side / factor, tiles.margin.div_ceil(factor));
        if side <= 2 * margin {
            return Err(Error::invalid(format!(
                "tiles of {} pixels with margins of {}; more than two margins and {factor} pixels are \
                 needed",
                tiles.side, tiles.margin
            )));
        }
        Ok((side, margin))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::VqConfig;
    use crate::preprocess::PreprocessorConfig;
    use burn::tensor::Device;

    fn tokenizer() -> VqTokenizer {
        let device = Device::flex();
        let config = VqConfig {
            base_channels: 32,
            channel_multiplier: vec![1, 1, 1],
            num_res_blocks: 1,
            resolution: 16,
            latent_channels: 4,
            embed_dim: 3,
            num_embeddings: 50,
            attn_type: "none".into(),
            ..VqConfig::default()
        };
        let model = config.init(&device);
        VqTokenizer::new(config, PreprocessorConfig::original(16), model, device)
    }

    fn image(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8])
        })
    }

    #[test]
    fn kept_parts_cover_every_code_once_and_tiles_have_full_size() {
        for (len, side, margin) in
            [(5, 8, 2), (8, 8, 2), (9, 8, 2), (40, 8, 2), (41, 8, 3), (30, 7, 0)]
        {
            let spans = spans(len, side, margin);
            let kept: Vec<usize> = spans.iter().flat_map(|span| span.kept.clone()).collect();
            assert!(kept.into_iter().eq(0..len), "{len} {side} {margin}: {spans:?}");
            for span in &spans {
                assert_eq!(span.computed.len(), side.min(len), "{spans:?}");
                assert!(
                    span.computed.start == 0 || span.kept.start >= span.computed.start + margin
                );
                assert!(span.computed.end == len || span.kept.end + margin <= span.computed.end);
            }
        }
    }

    #[test]
    fn one_tile_equals_the_whole_image_and_several_give_similar_codes() {
        let tokenizer = tokenizer();
        let small = image(16, 16);
        let whole = tokenizer.encode(std::slice::from_ref(&small)).unwrap().remove(0);
        let tiles = Tiles { side: 16, margin: 4 };
        let codes = tokenizer.encode_tiled(&small, tiles).unwrap();
        assert_eq!(codes, whole);
        let decoded = tokenizer.decode_tiled(&codes, tiles).unwrap();
        assert_eq!(decoded, tokenizer.decode(&[whole]).unwrap()[0]);

        let large = image(70, 37);
        let codes = tokenizer.encode_tiled(&large, tiles).unwrap();
        assert_eq!((codes.height, codes.width), (9, 17));
        let decoded = tokenizer.decode_tiled(&codes, tiles).unwrap();
        assert_eq!(decoded.dimensions(), (68, 36));
        // By chance one in fifty would be equal.
        let at_once = tokenizer.encode_tiled(&large, Tiles { side: 512, margin: 0 }).unwrap();
        let same = codes.ids.iter().zip(&at_once.ids).filter(|(a, b)| a == b).count();
        assert!(same * 5 > codes.ids.len(), "{same} of {}", codes.ids.len());
    }

    #[test]
    fn unusable_tiles_images_and_codes_are_refused() {
        let tokenizer = tokenizer();
        let refused =
            |tiles| tokenizer.encode_tiled(&image(30, 30), tiles).unwrap_err().to_string();
        assert!(refused(Tiles { side: 16, margin: 8 }).contains("more than two margins"));
        let tiny = tokenizer.encode_tiled(&image(3, 30), Tiles::default()).unwrap_err();
        assert!(tiny.to_string().contains("sides of at least 4"), "{tiny}");
        let wrong = Codes { ids: vec![50], height: 1, width: 1 };
        assert!(tokenizer.decode_tiled(&wrong, Tiles::default()).is_err());
    }
}
