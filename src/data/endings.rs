//! Kinds of files by the ending of their names.

/// Endings of the images that are read, without the dot.
pub(super) const IMAGES: [&str; 7] = ["png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp"];

/// Endings of images in other formats that Pillow, and with it `datasets` and `webdataset`, reads.
const OTHER_IMAGES: [&str; 54] = [
    "blp", "bmp", "dib", "bufr", "cur", "pcx", "dcx", "dds", "ps", "eps", "fit", "fits", "fli",
    "flc", "ftc", "ftu", "gbr", "gif", "grib", "jp2", "j2k", "jpc", "jpf", "jpx", "j2c", "icns",
    "ico", "im", "iim", "tif", "tiff", "msp", "pcd", "pxr", "pbm", "pgm", "ppm", "pnm", "psd",
    "bw", "rgb", "rgba", "sgi", "ras", "tga", "icb", "vda", "vst", "wmf", "emf", "xbm", "xpm",
    "avif", "heic",
];

/// What a file is, by its ending in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An image that is read.
    Image,
    /// An image in a format that is not read.
    OtherImage,
    /// No image.
    Other,
}

/// The kind of files with this `ending`, given without the dot.
pub(super) fn kind_of(ending: &str) -> Kind {
    let ending = ending.to_ascii_lowercase();
    match ending.as_str() {
        ending if IMAGES.contains(&ending) => Kind::Image,
        ending if OTHER_IMAGES.contains(&ending) => Kind::OtherImage,
        _ => Kind::Other,
    }
}
