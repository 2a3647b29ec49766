//! The orientation that a file's metadata gives, read as Pillow's `ImageOps.exif_transpose` reads it.
//!
//! EXIF comes first: APP1 segments of JPEG, the eXIf chunk or a `Raw profile type exif` text of PNG, the EXIF
//! chunk of WebP. If it has no such tag, `tiff:Orientation` of the XMP packet counts. Broken metadata and
//! numbers other than 1 to 8 leave the image as it is; for some of the former Pillow raises an error.

use std::io::Read;

use image::metadata::Orientation;

/// EXIF's number of the tag.
const ORIENTATION: u32 = 274;
/// What EXIF data starts with in JPEG, and at times elsewhere.
const EXIF_PREFIX: &[u8] = b"Exif\0\0";
const XMP_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Keywords of PNG's texts.
const RAW_PROFILE: &[u8] = b"Raw profile type exif";
const XMP_KEYWORD: &[u8] = b"XML:com.adobe.xmp";
/// Maximum length of a compressed text once unpacked, in bytes.
const MAX_TEXT: u64 = 1 << 22;

/// The metadata of a file that may hold its orientation.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    exif: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
}

impl Metadata {
    /// That of a JPEG file with these APP1 segments. EXIF of several segments is joined.
    pub fn of_jpeg<'a>(segments: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = Self::default();
        for segment in segments {
            if let Some(part) = segment.strip_prefix(EXIF_PREFIX) {
                found.exif.get_or_insert_default().extend_from_slice(part);
            } else if let Some(packet) = segment.strip_prefix(XMP_PREFIX) {
                found.xmp = Some(packet.to_vec());
            }
        }
        found
    }

    /// That of the PNG file `bytes`; chunks after the pixels count too, and the last of a kind. `None` if the file
    /// ends before its IEND chunk, so that some may be missing.
    pub fn of_png(bytes: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut profile = None;
        let mut rest = bytes.get(8..)?;
        loop {
            let (kind, data, next) = chunk(rest, u32::from_be_bytes, true)?;
            rest = next.get(4..).unwrap_or_default(); // the checksum
            if kind == b"IEND" {
                break;
            } else if kind == b"eXIf" {
                found.exif = Some(data.to_vec());
            } else if let Some((keyword, text)) = text(kind, data) {
                match keyword {
                    RAW_PROFILE => profile = Some(text),
                    XMP_KEYWORD => found.xmp = Some(text),
                    _ => {}
                }
            }
        }
        found.exif = found.exif.or_else(|| unhexed(&profile?));
        Some(found)
    }

    /// That of the WebP file `bytes`: the first chunk of a kind that the header announces. `None` if the file is
    /// shorter than it says, which libwebp refuses.
    pub fn of_webp(bytes: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut flags = 0;
        let (_, content, _) = chunk(bytes, u32::from_le_bytes, false)?;
        let mut rest = content.get(4..)?;
        while let Some((kind, data, next)) = chunk(rest, u32::from_le_bytes, false) {
            rest = next.get(data.len() % 2..).unwrap_or_default();
            match kind {
                b"VP8X" => flags = data.first().copied().unwrap_or(0),
                b"EXIF" if flags & 8 != 0 => _ = found.exif.get_or_insert_with(|| data.to_vec()),
                b"XMP " if flags & 4 != 0 => _ = found.xmp.get_or_insert_with(|| data.to_vec()),
                _ => {}
            }
        }
        Some(found)
    }

    /// How the image must be turned.
    pub fn orientation(&self) -> Orientation {
        let number = match self.exif.as_deref().map(from_exif) {
            Some(Tag::Broken) => None,
            Some(Tag::Number(number)) => Some(number),
            Some(Tag::Absent) | None => self.xmp.as_deref().and_then(from_xmp),
        };
        let number = number.and_then(|number| u8::try_from(number).ok());
        number.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
    }
}

/// The first chunk of `bytes`, its data and what follows; its length stands before its kind in PNG.
fn chunk(
    bytes: &[u8],
    number: fn([u8; 4]) -> u32,
    length_first: bool,
) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    let (second, rest) = rest.split_first_chunk::<4>()?;
    let (len, kind) = if length_first { (first, second) } else { (second, first) };
    let (data, next) = rest.split_at_checked(number(*len) as usize)?;
    Some((kind, data, next))
}

/// Keyword and text of a PNG chunk that may matter here.
fn text<'a>(kind: &[u8; 4], data: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let split = |data: &'a [u8]| -> Option<(&'a [u8], &'a [u8])> {
        let at = data.iter().position(|byte| *byte == 0)?;
        Some((&data[..at], &data[at + 1..]))
    };
    if !matches!(kind, b"tEXt" | b"zTXt" | b"iTXt") {
        return None;
    }
    let (keyword, rest) = split(data)?;
    if keyword != RAW_PROFILE && keyword != XMP_KEYWORD {
        return None;
    }
    let text = match kind {
        b"tEXt" => rest.to_vec(),
        b"zTXt" => inflated(rest.strip_prefix(&[0])?)?,
        _ => {
            let (flags, rest) = rest.split_first_chunk::<2>()?;
            let (_language, rest) = split(rest)?;
            let (_translated, rest) = split(rest)?;
            match flags {
                [0, _] => rest.to_vec(),
                [1, 0] => inflated(rest)?,
                _ => return None,
            }
        }
    };
    Some((keyword, text))
}

fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(data).take(MAX_TEXT).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The bytes of a raw profile: an empty line, its name and its length, then hexadecimal digits.
fn unhexed(profile: &[u8]) -> Option<Vec<u8>> {
    let digits = profile.splitn(4, |byte| *byte == b'\n').nth(3)?;
    let digits: Option<Vec<u8>> = digits
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    Some(digits?.chunks_exact(2).map(|pair| 16 * pair[0] + pair[1]).collect())
}

/// What EXIF data says about the orientation.
enum Tag {
    /// No TIFF header.
    Broken,
    Absent,
    /// The tag's value; 0 where it is no number.
    Number(u32),
}

/// The tag in the first directory of the TIFF structure `exif`. As in Pillow the first readable entry of the tag
/// counts, a directory that is cut short gives the entries it has, and of several values the first counts.
fn from_exif(exif: &[u8]) -> Tag {
    let mut tiff = exif;
    for _ in 0..2 {
        tiff = tiff.strip_prefix(EXIF_PREFIX).unwrap_or(tiff);
    }
    if tiff.is_empty() {
        return Tag::Absent;
    }
    let big = match tiff.first_chunk::<4>() {
        Some(b"MM\0*" | b"MM*\0") => true,
        Some(b"II*\0" | b"II\0*") => false,
        _ => return Tag::Broken,
    };
    let short = |at: usize| -> Option<u32> {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }.into())
    };
    let long = |at: usize| -> Option<u32> {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let directory = || {
        let start = long(4)? as usize;
        Some((start + 2, short(start)? as usize))
    };
    let Some((start, count)) = directory() else { return Tag::Absent };
    for entry in (0..count).map(|n| start + 12 * n) {
        if tiff.len() < entry + 12 {
            break;
        }
        let (Some(ORIENTATION), Some(kind), Some(values)) =
            (short(entry), short(entry + 2), long(entry + 4))
        else {
            continue;
        };
        let Some(unit) = unit(kind) else { continue };
        let size = u64::from(values) * unit;
        let at = if size > 4 { long(entry + 8).map(|at| at as usize) } else { Some(entry + 8) };
        let whole = |at: &usize| (*at as u64).saturating_add(size) <= tiff.len() as u64;
        let Some(at) = at.filter(whole).filter(|_| size > 0) else { continue };
        return Tag::Number(match kind {
            6 => tiff[at].into(),
            3 | 8 => short(at).unwrap_or(0),
            4 | 9 | 13 => long(at).unwrap_or(0),
            _ => 0,
        });
    }
    Tag::Absent
}

/// Bytes of one value of a TIFF type; `None` for types that Pillow does not know.
fn unit(kind: u32) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 => Some(8),
        _ => None,
    }
}

/// The first digit after `tiff:Orientation="` or `tiff:Orientation>`.
fn from_xmp(packet: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    packet.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(
        |(at, _)| {
            let rest = &packet[at + NAME.len()..];
            let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
            rest.first().filter(|byte| byte.is_ascii_digit()).map(|byte| u32::from(byte - b'0'))
        },
    )
}
