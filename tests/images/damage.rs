//! Damaged files: refused, never a part of an image, never a panic.

use proptest::prelude::*;

use super::{decoded, expected, refusal, rgb};

/// A file of each way of coding, with metadata before and after the pixels.
const FILES: [&str; 24] = [
    "baseline_420.jpg",
    "baseline_444.jpg",
    "scan_each_420.jpg",
    "scan_each_restart.jpg",
    "restart.jpg",
    "progressive_420.jpg",
    "progressive_444_restart.jpg",
    "arithmetic.jpg",
    "gray.jpg",
    "gray_progressive.jpg",
    "cmyk.jpg",
    "exif_6.jpg",
    "gray_2.png",
    "rgb_16_interlaced.png",
    "palette_4_clear.png",
    "palette_4_clear_interlaced.png",
    "animated.png",
    "exif_after_pixels.png",
    "lossy.webp",
    "lossy_alpha.webp",
    "lossless.webp",
    "animated.webp",
    "exif_6.webp",
    "xmp_8.webp",
];

#[test]
fn every_prefix_is_refused_or_the_whole_image() {
    for name in FILES {
        let bytes = decoded(name);
        let whole = rgb(&bytes).unwrap();
        let mut accepted = 0;
        for len in 0..bytes.len() {
            if let Ok(image) = rgb(&bytes[..len]) {
                assert!(image == whole, "{name}: another image of {len} bytes");
                accepted += 1;
            }
        }
        // A checksum at the end of a PNG, a zero that fills up the last byte of an Adobe file.
        assert!(accepted <= 4, "{name}: {accepted} prefixes are accepted");
    }
}

#[test]
fn a_jpeg_cut_short_and_closed_again_is_refused() {
    for name in ["baseline_420.jpg", "scan_each_420.jpg", "restart.jpg", "gray.jpg"] {
        let bytes = decoded(name);
        for part in [50, 70, 90] {
            let cut = [&bytes[..bytes.len() * part / 100], &[0xFF, 0xD9]].concat();
            let message = refusal(&cut);
            assert!(message.starts_with("not a readable image"), "{name} at {part} %: {message}");
        }
    }
}

#[test]
fn a_jpeg_whose_data_is_zeros_from_the_middle_on_is_refused() {
    for name in ["baseline_420.jpg", "progressive_420.jpg", "scan_each_420.jpg"] {
        let mut bytes = decoded(name);
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        let message = refusal(&bytes);
        assert!(message.starts_with("not a readable image"), "{name}: {message}");
    }
}

#[test]
fn messages_say_what_is_wrong() {
    let jpeg = decoded("baseline_420.jpg");
    let half = &jpeg[..jpeg.len() / 2];
    assert_eq!(refusal(half), "not a readable image: the JPEG file is truncated");
    let webp = decoded("exif_6.webp");
    assert_eq!(
        refusal(&webp[..webp.len() - 4]),
        "not a readable image: the WebP file is truncated"
    );
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let mut deep = jpeg.clone();
    deep[frame + 4] = 12;
    assert!(refusal(&deep).contains("Unsupported JPEG data precision 12"), "{}", refusal(&deep));
    let mut lossless = jpeg.clone();
    lossless[frame + 1] = 0xC3;
    assert!(refusal(&lossless).contains("Unsupported JPEG process"), "{}", refusal(&lossless));
    assert!(refusal(b"GIF89a...").contains("format GIF; allowed: PNG"));
    assert!(refusal(b"").starts_with("not an image"));
}

#[test]
fn files_that_claim_to_be_huge_are_refused_by_their_header() {
    let mut jpeg = decoded("baseline_420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    for (height, width) in [(60_000u16, 60_000u16), (13_400, 13_400), (65_500, 2_733)] {
        jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
        jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
        let message = refusal(&jpeg);
        assert!(message.contains(&format!("{width}x{height} pixels")), "{message}");
    }
    let mut webp = decoded("lossless.webp");
    webp[21..25].copy_from_slice(&(16_382u32 * (1 + (1 << 14))).to_le_bytes());
    let message = refusal(&webp);
    assert!(message.contains("16383x16383 pixels"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn files_with_bytes_changed_never_panic(
        name in prop::sample::select(expected().into_keys().collect::<Vec<_>>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in any::<prop::sample::Index>(),
        cut in prop::bool::weighted(0.1),
    ) {
        let mut bytes = decoded(&name);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        let _ = rgb(&bytes);
    }

    #[test]
    fn bytes_after_a_magic_number_never_panic(
        magic in prop::sample::select(vec![
            &b"\xFF\xD8\xFF"[..], b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\x40\0\0\0WEBPVP8L", b"RIFF\x40\0\0\0WEBPVP8X",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = rgb(&[magic, &rest].concat());
    }
}
