//! Which orientation metadata gives, as measured with Pillow 13's `ImageOps.exif_transpose`.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::{ImageFormat, RgbImage};

use super::rgb;
use super::written::{
    EXIF, Entry, XMP, encoded, exif, stored, tiff, upright, with_app1, with_chunk, with_chunks,
};

/// The orientation by which `bytes`, which store the upright image as it is, are turned.
fn applied(bytes: &[u8], untouched: &RgbImage) -> u16 {
    let image = rgb(bytes).unwrap();
    // What turns the upright image by 8 is stored by 6, and so on.
    let found = (1..=8).find(|orientation| {
        let inverse = [1, 2, 3, 4, 5, 8, 7, 6][usize::from(*orientation) - 1];
        stored(untouched, inverse) == image
    });
    found.expect("one of eight ways to turn it")
}

/// Kinds and contents of the chunks of a WebP file.
type Chunks<'a> = &'a [(&'a [u8; 4], &'a [u8])];

fn entry(tag: u16, kind: u16, count: u32, value: u32) -> Entry {
    Entry { tag, kind, count, value: value.to_le_bytes() }
}

/// EXIF data of a JPEG with these little-endian entries.
fn entries(entries: &[Entry]) -> Vec<u8> {
    [EXIF, &tiff(false, entries)].concat()
}

/// EXIF data of a JPEG with the directory's length replaced.
fn claiming(count: u16, mut exif: Vec<u8>) -> Vec<u8> {
    exif[14..16].copy_from_slice(&count.to_le_bytes());
    exif
}

fn good(orientation: u16) -> Vec<u8> {
    [EXIF, &exif(orientation, false)].concat()
}

fn xmp(text: &str) -> Vec<u8> {
    [XMP, text.as_bytes()].concat()
}

#[test]
fn exif_of_a_jpeg_is_read_as_by_pillow() {
    let tag = |kind, count, value| entries(&[entry(274, kind, count, value)]);
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("little-endian", 6, good(6)),
        ("big-endian", 6, [EXIF, &exif(6, true)].concat()),
        ("twice the prefix", 6, [EXIF, &good(6)].concat()),
        ("0", 1, good(0)),
        ("9", 1, good(9)),
        ("65535", 1, good(65535)),
        ("262, whose lower byte is 6", 1, good(262)),
        ("byte", 1, tag(1, 1, 6)),
        ("text", 1, tag(2, 1, 0x36)),
        ("long", 6, tag(4, 1, 6)),
        ("signed byte", 6, tag(6, 1, 6)),
        ("undefined", 1, tag(7, 1, 6)),
        ("signed short", 6, tag(8, 1, 6)),
        ("signed long", 6, tag(9, 1, 6)),
        ("directory", 6, tag(13, 1, 6)),
        ("unknown type", 1, tag(14, 1, 6)),
        ("type 0", 1, tag(0, 1, 6)),
        ("two values", 6, tag(3, 2, 0x0003_0006)),
        ("no value", 1, tag(3, 0, 6)),
        ("values elsewhere", 1, tag(3, 3, 8)),
        ("values beyond the end", 1, tag(3, 3, 9999)),
        ("the first of two", 6, entries(&[entry(274, 3, 1, 6), entry(274, 3, 1, 3)])),
        ("the readable of two", 3, entries(&[entry(274, 99, 1, 6), entry(274, 3, 1, 3)])),
        ("after a bad entry", 6, entries(&[entry(270, 2, 100, 9999), entry(274, 3, 1, 6)])),
        ("unsorted", 6, entries(&[entry(305, 3, 1, 1), entry(274, 3, 1, 6)])),
        ("another tag", 1, entries(&[entry(305, 3, 1, 6)])),
        ("more entries claimed", 6, claiming(1000, good(6))),
        ("no entry claimed", 1, claiming(0, good(6))),
        ("cut within the entry", 1, good(6)[..22].to_vec()),
        ("cut after the entry", 6, good(6)[..28].to_vec()),
        ("only the prefix", 1, EXIF.to_vec()),
        ("a short header", 1, [EXIF, b"II*\0"].concat()),
        ("no TIFF", 1, [EXIF, b"hello world, no tiff"].concat()),
        ("BigTIFF", 1, [EXIF, b"II+\0", &good(6)[10..]].concat()),
        ("42 in the other order", 6, [EXIF, b"II\0*", &good(6)[10..]].concat()),
        ("directory beyond the end", 1, [EXIF, b"II*\0\0\xFF\xFF\0", &good(6)[14..]].concat()),
        ("other case", 1, [b"exif\0\0", &good(6)[6..]].concat()),
    ];
    let jpeg = encoded(&upright(), ImageFormat::Jpeg);
    let untouched = rgb(&jpeg).unwrap();
    for (name, orientation, segment) in cases {
        assert_eq!(applied(&with_app1(&jpeg, &[segment]), &untouched), orientation, "{name}");
    }
}

#[test]
fn segments_and_xmp_of_a_jpeg_are_joined_as_by_pillow() {
    let attribute = xmp("<rdf:Description tiff:Orientation=\"6\"/>");
    let no_tag = entries(&[entry(305, 3, 1, 3)]);
    let cases: Vec<(&str, u16, Vec<Vec<u8>>)> = vec![
        ("two whole segments", 6, vec![good(6), good(3)]),
        ("one in two parts", 6, vec![good(6)[..15].to_vec(), [EXIF, &good(6)[15..]].concat()]),
        ("an empty one first", 6, vec![EXIF.to_vec(), good(6)]),
        ("garbage first", 1, vec![[EXIF, b"xx"].concat(), good(6)]),
        ("attribute", 6, vec![attribute.clone()]),
        ("element", 6, vec![xmp("<tiff:Orientation>6</tiff:Orientation>")]),
        ("single quotes", 1, vec![xmp("tiff:Orientation='6'")]),
        ("spaces", 1, vec![xmp("tiff:Orientation = \"6\"")]),
        ("0 in XMP", 1, vec![xmp("tiff:Orientation=\"0\"")]),
        ("the first digit", 6, vec![xmp("tiff:Orientation=\"62\"")]),
        ("the first number", 3, vec![xmp("tiff:Orientation=\"x\" tiff:Orientation=\"3\"")]),
        ("the last packet", 3, vec![attribute.clone(), xmp("tiff:Orientation=\"3\"")]),
        ("the last packet without it", 1, vec![attribute.clone(), xmp("nothing")]),
        ("EXIF before XMP", 3, vec![good(3), attribute.clone()]),
        ("EXIF of 0 before XMP", 1, vec![good(0), attribute.clone()]),
        ("EXIF without the tag", 6, vec![no_tag, attribute.clone()]),
        ("empty EXIF", 6, vec![EXIF.to_vec(), attribute.clone()]),
        ("EXIF that is cut", 6, vec![good(6)[..22].to_vec(), attribute.clone()]),
        ("EXIF of no TIFF", 1, vec![[EXIF, b"garbagegarbage"].concat(), attribute]),
    ];
    let jpeg = encoded(&upright(), ImageFormat::Jpeg);
    let untouched = rgb(&jpeg).unwrap();
    for (name, orientation, segments) in cases {
        assert_eq!(applied(&with_app1(&jpeg, &segments), &untouched), orientation, "{name}");
    }
}

#[test]
fn chunks_of_a_png_are_read_as_by_pillow() {
    let (bare, prefixed) = (exif(6, true), good(6));
    let zipped = |text: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let hex: String = prefixed.iter().map(|byte| format!("{byte:02x}")).collect();
    let profile = format!("\nexif\n{:8}\n{}\n{}\n", prefixed.len(), &hex[..20], &hex[20..]);
    let profile = profile.as_bytes();
    let packet = b"<x tiff:Orientation=\"6\"/>";
    let raw = |head: &[u8], text: &[u8]| [b"Raw profile type exif\0", head, text].concat();
    let adobe = |head: &[u8], text: &[u8]| [b"XML:com.adobe.xmp\0", head, text].concat();
    let cases: Vec<(&str, u16, &[u8; 4], Vec<u8>)> = vec![
        ("eXIf", 6, b"eXIf", bare.clone()),
        ("eXIf with a prefix", 6, b"eXIf", prefixed),
        ("garbage", 1, b"eXIf", b"garbage here".to_vec()),
        ("empty", 1, b"eXIf", Vec::new()),
        ("compressed profile", 6, b"zTXt", raw(b"\0", &zipped(profile))),
        ("plain profile", 6, b"tEXt", raw(b"", profile)),
        ("international profile", 6, b"iTXt", raw(b"\0\0\0\0", profile)),
        ("profile of no digits", 1, b"tEXt", raw(b"", b"\nexif\n 8\nzz")),
        ("profile not compressed", 1, b"zTXt", raw(b"\0", profile)),
        ("profile of another kind", 1, b"tEXt", [b"Raw profile type iptc\0", profile].concat()),
        ("XMP", 6, b"iTXt", adobe(b"\0\0\0\0", packet)),
        ("compressed XMP", 6, b"iTXt", adobe(b"\x01\0\0\0", &zipped(packet))),
        ("plain XMP", 6, b"tEXt", adobe(b"", packet)),
    ];
    let png = encoded(&upright(), ImageFormat::Png);
    for (name, orientation, kind, data) in cases {
        let bytes = with_chunk(&png, kind, &data);
        assert_eq!(applied(&bytes, &upright()), orientation, "{name}");
    }
    // The chunk that is inserted first comes last.
    let both = with_chunk(&with_chunk(&png, b"eXIf", &exif(3, true)), b"eXIf", &bare);
    assert_eq!(applied(&both, &upright()), 3, "the last of two chunks");
    let both = with_chunk(&with_chunk(&png, b"eXIf", &exif(3, true)), b"tEXt", &raw(b"", profile));
    assert_eq!(applied(&both, &upright()), 3, "a chunk before a text");
}

#[test]
fn chunks_of_a_webp_are_read_as_by_pillow() {
    let (six, three) = (exif(6, false), exif(3, false));
    let prefixed = good(6);
    let packet: &[u8] = b"<x tiff:Orientation=\"8\"/>";
    let cases: [(&str, u16, u8, Chunks<'_>); 7] = [
        ("EXIF", 6, 8, &[(b"EXIF", &six)]),
        ("EXIF with a prefix", 6, 8, &[(b"EXIF", &prefixed)]),
        ("the first of two", 6, 8, &[(b"EXIF", &six), (b"EXIF", &three)]),
        ("not announced", 1, 0, &[(b"EXIF", &six)]),
        ("XMP", 8, 4, &[(b"XMP ", packet)]),
        ("EXIF before XMP", 3, 12, &[(b"EXIF", &three), (b"XMP ", packet)]),
        ("garbage", 1, 8, &[(b"EXIF", b"garbage")]),
    ];
    let webp = encoded(&upright(), ImageFormat::WebP);
    for (name, orientation, flags, chunks) in cases {
        let bytes = with_chunks(&webp, upright().dimensions(), flags, chunks);
        assert_eq!(applied(&bytes, &upright()), orientation, "{name}");
    }
}
