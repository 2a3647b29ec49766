//! `calumma edit` on a checkpoint with random weights.

use std::path::{Path, PathBuf};

use image::{GrayImage, Luma, RgbImage};
use serde_json::Value;

use super::{calumma_in, image, text, tiny};
use crate::common::TINY_SIDE;

/// A mask of the size of [`image`] with the pixels right of `from` marked.
fn mask(dir: &Path, name: &str, size: (u32, u32), from: u32) -> PathBuf {
    let path = dir.join(name);
    GrayImage::from_fn(size.0, size.1, |x, _| Luma([if x >= from { 255 } else { 0 }]))
        .save(&path)
        .unwrap();
    path
}

fn edit(dir: &Path, args: &[&str]) -> Vec<Value> {
    calumma_in(dir, &[&["edit", tiny(), "p.png"], args, &["--json"]].concat()).json()
}

fn opened(dir: &Path, path: &Value) -> RgbImage {
    image::open(dir.join(path.as_str().unwrap())).unwrap().into_rgb8()
}

#[test]
fn an_edit_is_written_with_its_measures_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    mask(dir.path(), "m.png", (40, 32), 30);
    let args = ["a red square", "--mask", "m.png", "--dilate", "0", "--candidates", "2"];
    let found = edit(dir.path(), &[&args[..], &["--seed", "7", "--out", "made"]].concat());
    assert_eq!(found.len(), 1);
    let object = &found[0];
    // The image of 40x32 becomes its middle 32 columns: from 26 on they are the last of four cells.
    assert_eq!((&object["codes_drawn"], &object["codes_kept"]), (&4.into(), &12.into()));
    assert_eq!(object["codes_kept_equal"], 12);
    assert_eq!(object["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(object["candidates"][1]["seed"], 7 + (1_u64 << 32));
    assert_eq!(object["score"], "look-ahead");
    assert!(object["seam_reference"].is_f64() && object["tall"].is_null());
    assert_eq!(opened(dir.path(), &object["path"]).dimensions(), (TINY_SIDE, TINY_SIDE));
    let path = object["path"].as_str().unwrap();
    let made_by = &calumma_in(dir.path(), &["inspect", path, "--json"]).json()[0]["made_by"];
    assert_eq!((&made_by["verb"], &made_by["mask"]), (&"edit".into(), &"m.png".into()));
    assert_eq!((&made_by["seed"], &made_by["dilate"]), (&7.into(), &0.into()));

    let again = edit(dir.path(), &[&args[..], &["--seed", "7", "--out", "made"]].concat());
    assert_ne!(again[0]["path"], object["path"], "nothing is overwritten");
    assert_eq!(opened(dir.path(), &again[0]["path"]), opened(dir.path(), &object["path"]));
}

#[test]
fn an_empty_mask_is_the_reconstruction_and_a_full_one_the_drawing() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    mask(dir.path(), "none.png", (40, 32), 40);
    mask(dir.path(), "all.png", (40, 32), 0);
    let args = ["vq", "reconstruct", tiny(), "p.png", "--out", "r", "--json"];
    let own = &calumma_in(dir.path(), &args).json()[0];
    let kept = &edit(dir.path(), &["a", "--mask", "none.png"])[0];
    assert_eq!(opened(dir.path(), &kept["path"]), opened(dir.path(), &own["out"]));
    assert!(kept["psnr_outside"].is_null(), "equal images have no finite ratio: {kept}");

    let drawn = &calumma_in(dir.path(), &["draw", tiny(), "a", "--seed", "3", "--json"]).json()[0];
    let full = &edit(dir.path(), &["a", "--mask", "all.png", "--seed", "3"])[0];
    assert_eq!(opened(dir.path(), &full["path"]), opened(dir.path(), &drawn["path"]));
}

#[test]
fn variations_and_extensions_write_what_they_promise() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    let found = edit(dir.path(), &["it", "--keep-rows", "2", "--num", "3", "--seed", "1"]);
    let seeds: Vec<_> = found.iter().map(|object| object["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [1, 2, 3]);
    assert!(found.iter().all(|object| object["codes_kept_equal"] == 8));
    let extended = &edit(dir.path(), &["it", "--extend-down", "1", "--paste"])[0];
    let tall = opened(dir.path(), &extended["tall"]);
    assert_eq!(tall.dimensions(), (TINY_SIDE, TINY_SIDE + 8));
    assert!(extended["tall"].as_str().unwrap().ends_with("-tall.png"));
    assert!(extended["seam"].is_null());
    // The image of 40x32 loses four columns on either side.
    let original = image::open(dir.path().join("p.png")).unwrap().into_rgb8();
    assert_eq!(tall.get_pixel(0, 0), original.get_pixel(4, 0));
}

#[test]
fn what_cannot_work_is_one_message() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "p.png");
    mask(dir.path(), "m.png", (32, 40), 3);
    let run = |args: &[&str]| {
        calumma_in(dir.path(), &[&["edit", tiny(), text(&path), "a"], args].concat())
    };
    run(&["--mask", "m.png"]).fails(3, &["m.png", "32x40", "40x32"]);
    run(&["--mask", "absent.png"]).fails(3, &["absent.png"]);
    run(&["--keep-rows", "5"]).fails(3, &["5 rows", "0 to 4"]);
    run(&["--extend-down", "4"]).fails(3, &["4 rows", "1 to 3"]);
    for args in [
        &[][..],
        &["--keep-rows", "1", "--extend-down", "1"],
        &["--keep-rows", "1", "--dilate", "1"],
    ] {
        let outcome = run(args);
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    }
}
