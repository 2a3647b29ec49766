//! Image files with metadata, written for tests.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// What EXIF data starts with in a JPEG.
pub const EXIF: &[u8] = b"Exif\0\0";
/// What an XMP packet starts with in a JPEG.
pub const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// An entry of a TIFF directory.
#[derive(Clone, Copy)]
pub struct Entry {
    pub tag: u16,
    pub kind: u16,
    pub count: u32,
    /// The value or its offset, in the order of the file.
    pub value: [u8; 4],
}

/// The bytes of a TIFF structure with one directory.
pub fn tiff(big: bool, entries: &[Entry]) -> Vec<u8> {
    let short = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let long = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let mut bytes = if big { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
    bytes.extend(long(8));
    bytes.extend(short(entries.len() as u16));
    for entry in entries {
        bytes.extend(short(entry.tag));
        bytes.extend(short(entry.kind));
        bytes.extend(long(entry.count));
        bytes.extend(entry.value);
    }
    bytes.extend([0; 4]);
    bytes
}

/// EXIF data with this orientation as one short.
pub fn exif(orientation: u16, big: bool) -> Vec<u8> {
    let [a, b] = if big { orientation.to_be_bytes() } else { orientation.to_le_bytes() };
    tiff(big, &[Entry { tag: 274, kind: 3, count: 1, value: [a, b, 0, 0] }])
}

/// `jpeg` with APP1 segments after its first marker.
pub fn with_app1(jpeg: &[u8], segments: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = jpeg[..2].to_vec();
    for segment in segments {
        bytes.extend([0xFF, 0xE1]);
        bytes.extend((segment.len() as u16 + 2).to_be_bytes());
        bytes.extend(segment);
    }
    bytes.extend(&jpeg[2..]);
    bytes
}

/// `png` with a chunk before its pixels.
pub fn with_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    const HEADER: usize = 8 + 25;
    let mut bytes = png[..HEADER].to_vec();
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(kind);
    bytes.extend(data);
    let checksum = crc32(&[kind, data].concat());
    bytes.extend(checksum.to_be_bytes());
    bytes.extend(&png[HEADER..]);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

/// The simple file `webp` of these dimensions, extended with chunks; `flags` announces them.
pub fn with_chunks(
    webp: &[u8],
    (width, height): (u32, u32),
    flags: u8,
    chunks: &[(&[u8; 4], &[u8])],
) -> Vec<u8> {
    let mut header = vec![flags, 0, 0, 0];
    header.extend(&(width - 1).to_le_bytes()[..3]);
    header.extend(&(height - 1).to_le_bytes()[..3]);
    let mut body = b"WEBP".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        body.extend(kind);
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(data);
        body.extend(vec![0; data.len() % 2]);
    };
    chunk(b"VP8X", &header);
    let len = u32::from_le_bytes(webp[16..20].try_into().unwrap()) as usize;
    chunk(&webp[12..16], &webp[20..20 + len]);
    for (kind, data) in chunks {
        chunk(*kind, data);
    }
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

/// An image of which no two pixels are equal.
pub fn upright() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, y| Rgb([10 * x as u8, 15 * y as u8, (x * y % 251) as u8]))
}

/// `upright` as a file with this orientation stores it. EXIF says where the first row and the first column of
/// the file are in the upright image.
pub fn stored(upright: &RgbImage, orientation: u16) -> RgbImage {
    let (width, height) = upright.dimensions();
    let size = if orientation < 5 { (width, height) } else { (height, width) };
    RgbImage::from_fn(size.0, size.1, |column, row| {
        let (right, bottom) = (width - 1, height - 1);
        let (x, y) = match orientation {
            1 => (column, row),
            2 => (right - column, row),
            3 => (right - column, bottom - row),
            4 => (column, bottom - row),
            5 => (row, column),
            6 => (right - row, column),
            7 => (right - row, bottom - column),
            8 => (row, bottom - column),
            other => panic!("orientation {other}"),
        };
        *upright.get_pixel(x, y)
    })
}

/// The bytes of `image` as a file of `format`, without loss unless it is JPEG.
pub fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = DynamicImage::from(image.clone());
    if format == ImageFormat::Jpeg {
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
        image.write_with_encoder(encoder).unwrap();
    } else {
        image.write_to(&mut bytes, format).unwrap();
    }
    bytes.into_inner()
}

/// `image` in a file of `format` that stores it by this orientation.
pub fn oriented(image: &RgbImage, orientation: u16, format: ImageFormat) -> Vec<u8> {
    let image = stored(image, orientation);
    let bytes = encoded(&image, format);
    let exif = exif(orientation, orientation.is_multiple_of(2));
    match format {
        ImageFormat::Jpeg => with_app1(&bytes, &[[EXIF, &exif].concat()]),
        ImageFormat::Png => with_chunk(&bytes, b"eXIf", &exif),
        ImageFormat::WebP => with_chunks(&bytes, image.dimensions(), 8, &[(b"EXIF", &exif)]),
        other => panic!("{other:?}"),
    }
}
