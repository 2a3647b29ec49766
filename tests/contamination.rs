//! Overlap of data sets: copies are found, and chance similarities rarely are.

use calumma::data::scenes::Scenes;
use calumma::data::{Dataset, Fields, Sample, Unused};
use calumma::error::{Error, Result};
use calumma::eval::contamination::{Contamination, ContaminationConfig, find};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

/// Samples in memory; one whose fields are no JSON object cannot be read.
struct Samples(&'static str, Vec<(Value, Vec<RgbImage>)>);

impl Dataset for Samples {
    fn len(&self) -> usize {
        self.1.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (fields, images) = &self.1[index];
        let fields: Fields = match fields {
            Value::Object(fields) => fields.clone(),
            _ => return Err(Error::invalid(format!("sample {index} is damaged"))),
        };
        Ok(Sample { fields, images: images.clone(), source: format!("{}#{index}", self.0) })
    }

    fn unused(&self) -> Vec<Unused> {
        Vec::new()
    }

    fn name(&self) -> &str {
        self.0
    }
}

fn search(
    evaluation: &dyn Dataset,
    train: impl Dataset + 'static,
    config: ContaminationConfig,
) -> Contamination {
    find(evaluation, &[Box::new(train)], &config, &mut |_| {}).unwrap()
}

fn scenes(spec: &str) -> Scenes {
    Scenes::new(spec.parse().unwrap()).unwrap()
}

/// The images of scenes, without their texts.
fn images(spec: &str, change: impl Fn(&RgbImage) -> RgbImage) -> Vec<(Value, Vec<RgbImage>)> {
    let scenes = scenes(spec);
    let one = |index| (json!({}), vec![change(&scenes.get(index).unwrap().images[0])]);
    (0..scenes.len()).map(one).collect()
}

/// `image` enlarged, brightened and compressed by JPEG at `quality`.
fn reencoded(image: &RgbImage, quality: u8) -> RgbImage {
    let (width, height) = (image.width() * 3 / 2, image.height() * 3 / 2);
    let larger = imageops::resize(image, width, height, FilterType::CatmullRom);
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    imageops::brighten(&larger, 16).write_with_encoder(encoder).unwrap();
    image::load_from_memory(&bytes).unwrap().into_rgb8()
}

const EVALUATION: &str = "scenes:val?count=300&seed=5";

#[test]
fn equal_images_are_exact_and_reencoded_ones_near() {
    let evaluation = Samples("val", images(EVALUATION, RgbImage::clone));
    let mut train = images(EVALUATION, |image| reencoded(image, 60));
    train[3].1[0] = evaluation.1[250].1[0].clone();
    let near = |distance| {
        let config = ContaminationConfig { distance, ..ContaminationConfig::default() };
        search(&evaluation, Samples("train", train.clone()), config).near_images.share
    };
    let shares = [3, 6, 8, 10, 15].map(near);
    eprintln!("copies found, resized, brighter, JPEG 60, distance 3, 6, 8, 10, 15: {shares:.3?}");
    let found =
        search(&evaluation, Samples("train", train.clone()), ContaminationConfig::default());
    assert_eq!(found.exact_images.items, 1);
    let exact = &found.images[0];
    assert!(exact.exact && (exact.doc_id, exact.twin.index) == (250, 3));
    assert_eq!((exact.id.as_str(), exact.twin_id.as_str()), ("val#250", "train#3"));
    let share = found.near_images.share;
    assert!(share > 0.85, "{share}");
    let right = found
        .affected
        .iter()
        .filter(|item| item.near_image.as_ref().is_some_and(|twin| twin.index == item.doc_id));
    assert!(right.count() as f64 > 0.95 * found.near_images.items as f64);
    assert_eq!(found.any.items, found.exact_images.items + found.near_images.items);
    // Each change alone, on a single image.
    let one = |change: &dyn Fn(&RgbImage) -> RgbImage| {
        let image = scenes(EVALUATION).get(1).unwrap().images[0].clone();
        let evaluation = Samples("one", vec![(json!({}), vec![image.clone()])]);
        let train = Samples("changed", vec![(json!({}), vec![change(&image)])]);
        search(&evaluation, train, ContaminationConfig::default()).near_images.items
    };
    let half = |p: &RgbImage| imageops::resize(p, 32, 32, FilterType::Lanczos3);
    let mirrored = |p: &RgbImage| imageops::flip_horizontal(p);
    assert_eq!((one(&half), one(&|p| imageops::brighten(p, -24))), (1, 1));
    assert_eq!((one(&|p| reencoded(p, 75)), one(&mirrored)), (1, 0));
}

#[test]
fn unrelated_images_are_rarely_near() {
    let evaluation = Samples("val", images(EVALUATION, RgbImage::clone));
    let train = || images("scenes:train?count=300&seed=6", RgbImage::clone);
    let rate = |distance| {
        let config = ContaminationConfig { distance, ..ContaminationConfig::default() };
        let found = search(&evaluation, Samples("train", train()), config);
        assert_eq!(found.exact_images.items, 0);
        found.near_images.share
    };
    let rates = [3, 6, 8, 10, 15].map(rate);
    eprintln!("false positives of 300 scenes beside 300, distance 3, 6, 8, 10, 15: {rates:.4?}");
    assert!(rates[2] <= 0.02, "{rates:?}");
    assert!(rates.is_sorted(), "{rates:?}");
}

#[test]
fn equal_shapes_of_different_colors_are_not_near() {
    let disc = |color: [u8; 3]| {
        let inside = |x: u32, y: u32| x.abs_diff(30).pow(2) + y.abs_diff(26).pow(2) < 300;
        RgbImage::from_fn(64, 64, |x, y| if inside(x, y) { Rgb(color) } else { Rgb([250; 3]) })
    };
    let one = |image| vec![(json!({}), vec![image])];
    let near = |color| {
        let evaluation = Samples("val", one(disc([210, 40, 40])));
        let found =
            search(&evaluation, Samples("train", one(disc(color))), ContaminationConfig::default());
        (found.exact_images.items, found.near_images.items)
    };
    assert_eq!(near([210, 40, 40]), (1, 0));
    assert_eq!(near([214, 44, 44]), (0, 1));
    // The luma of the red one.
    assert_eq!(near([40, 90, 230]), (0, 0));
    let twice = Samples("val", [one(disc([9; 3])), one(disc([9; 3]))].concat());
    let train = Samples("train", one(disc([9; 3])));
    let found = search(&twice, train, ContaminationConfig::default());
    assert_eq!((found.exact_images.items, found.images.len()), (2, 1), "shown once");
}

const LONG: &str = "The quick brown fox jumps over the lazy dog while fourteen small cats watch it \
                    from a wall.";

#[test]
fn texts_are_found_whole_and_by_n_grams() {
    let row =
        |caption: &str, names: [&str; 2]| (json!({"caption": caption, "names": names}), vec![]);
    let evaluation = Samples(
        "val",
        vec![
            row(LONG, ["a", "b"]),
            row("A  small RED square", ["c", "nothing like it"]),
            row("a blue circle", ["d", "a green star"]),
            row("a cat", ["e", "f"]),
        ],
    );
    let quoted = format!("he wrote: {}", LONG.to_lowercase().replace("from a wall.", "again"));
    let train = Samples(
        "train",
        vec![
            (json!({"text": "a small red square", "file_name": "a cat"}), vec![]),
            (json!({"text": ["a blue circle and more", "a green, star"]}), vec![]),
            (json!({ "text": quoted }), vec![]),
        ],
    );
    let found = search(&evaluation, train, ContaminationConfig::default());
    assert_eq!((found.items, found.any.items, found.any.share), (4, 3, 0.75));
    assert_eq!((found.exact_texts.items, found.ngrams.items), (1, 3));
    let [first, second, third] = &found.texts[..] else { panic!("{:?}", found.texts) };
    assert!(first.exact && first.doc_id == 1 && first.twin_text == "a small red square");
    assert!(!second.exact && second.text == "a green star" && second.twin.index == 1);
    assert_eq!((second.twin_text.as_str(), second.column.as_str()), ("a green, star", "names"));
    // Of the six 13-grams of 18 words, the three within the first 15 words.
    assert_eq!(third.ngram_share, 0.5);
    assert_eq!((third.twin.index, third.doc_id), (2, 0));
    let caption = &found.columns.iter().find(|column| column.column == "caption").unwrap();
    assert_eq!((caption.items, caption.exact_texts.items, caption.ngrams.items), (4, 1, 2));
}

#[test]
fn only_texts_of_the_given_columns_are_compared_and_a_missing_column_is_an_error() {
    let evaluation =
        Samples("val", vec![(json!({"question": "what is it?", "answer": "red"}), vec![])]);
    let train = || Samples("train", vec![(json!({"question": "why?", "answer": "red"}), vec![])]);
    let config = |name: &str| ContaminationConfig {
        columns: Some(vec![name.to_owned()]),
        ..ContaminationConfig::default()
    };
    assert_eq!(search(&evaluation, train(), config("answer")).exact_texts.items, 1);
    assert_eq!(search(&evaluation, train(), config("question")).any.items, 0);
    let error = |config| {
        let train: [Box<dyn Dataset>; 1] = [Box::new(train())];
        find(&evaluation, &train, &config, &mut |_| {}).unwrap_err().to_string()
    };
    assert!(error(config("caption")).contains("column caption"));
    let far = ContaminationConfig { distance: 16, ..ContaminationConfig::default() };
    assert!(error(far).contains("0 to 15"));
}

#[test]
fn bad_samples_are_counted_and_too_many_stop_the_search() {
    let rows = |bad: usize| {
        (0..300)
            .map(move |i| if i < bad { (json!(null), vec![]) } else { (json!({"t": "x"}), vec![]) })
    };
    let found = search(
        &Samples("val", rows(3).collect()),
        Samples("train", rows(2).collect()),
        ContaminationConfig::default(),
    );
    assert_eq!((found.items, found.any.items, found.any.share), (297, 297, 1.0));
    assert_eq!((found.evaluation.bad_samples.len(), found.train[0].bad_samples.len()), (3, 2));
    assert_eq!(found.texts.len(), 1, "equal examples are shown once");
    let train: [Box<dyn Dataset>; 1] = [Box::new(Samples("train", rows(4).collect()))];
    let config = ContaminationConfig::default();
    let evaluation = Samples("val", rows(0).collect());
    let error = find(&evaluation, &train, &config, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("train: 4 of 300 samples are bad"), "{error}");
}
