//! Reconstructions and losses.

use calumma::eval::loss::DocumentLoss;
use calumma::eval::reconstruction::Reconstruction;
use calumma::eval::{loss, reconstruction};
use image::RgbImage;
use serde_json::json;
use vq_tokenizer::Codes;

use super::{Rows, extent};

#[test]
fn reconstructions_are_scored_with_codebook_usage() {
    let rows = Rows(vec![json!({}), json!({}), json!({})]);
    let scores = reconstruction::evaluate(&rows, extent(2), 8, |images| {
        let one = |original: &RgbImage| {
            let mut decoded = original.clone();
            decoded.pixels_mut().for_each(|pixel| pixel.0 = pixel.0.map(|v| v + 1));
            let code = u32::from(original.get_pixel(0, 0)[0]);
            let codes = Codes { ids: vec![code; 4], height: 2, width: 2 };
            Reconstruction { original: original.clone(), codes, decoded }
        };
        Ok(images.iter().map(one).collect())
    })
    .unwrap();
    assert!((scores.psnr.value - 48.130_803_608_679_1).abs() < 1e-9);
    assert_eq!(scores.psnr.n, 3);
    let report = scores.report("rows");
    assert_eq!(report.score("codebook_usage").unwrap().value, 3.0 / 8.0);
    assert!((report.score("codebook_perplexity").unwrap().value - 3.0).abs() < 1e-9);
    assert_eq!(report.score("dead_codes").unwrap().value, 5.0);
}

#[test]
fn objects_are_read_in_the_decoded_image() {
    let scenes = calumma::data::open("scenes:val?count=24&seed=9&objects=1-2").unwrap();
    let objects = |swap: bool| {
        let scores = reconstruction::evaluate(scenes.as_ref(), extent(24), 8, |images| {
            let mut decoded = images.to_vec();
            decoded.rotate_left(usize::from(swap));
            let codes = Codes { ids: vec![0; 4], height: 2, width: 2 };
            let one = |(original, decoded): (&RgbImage, _)| {
                let original = original.clone();
                Reconstruction { original, codes: codes.clone(), decoded }
            };
            Ok(images.iter().zip(decoded).map(one).collect())
        });
        scores.unwrap().report("scenes").score("objects").unwrap()
    };
    assert_eq!((objects(false).value, objects(false).n), (1.0, 24));
    assert!(objects(true).value < 0.2, "images of other scenes pass as these");
}

#[test]
fn losses_are_means_over_tokens_by_modality() {
    let sources = [("a".to_owned(), vec![batch(), batch()]), ("b".to_owned(), vec![batch()])];
    let mut losses = [(6.0, 2, 1.0, 1), (2.0, 2, 3.0, 1), (0.0, 0, 8.0, 4)].into_iter();
    let scores = loss::evaluate(&sources, |_| {
        let (image, images, text, texts) = losses.next().unwrap();
        vec![DocumentLoss { image: (image, images), text: (text, texts) }]
    })
    .unwrap();
    let report = scores.report("recipe");
    let value = |name: &str| report.score(name).map(|score| (score.value, score.n));
    assert_eq!(value("loss"), Some((2.0, 10)));
    assert_eq!(value("image_loss"), Some((2.0, 4)));
    assert_eq!(value("text_loss"), Some((2.0, 6)));
    assert_eq!(value("image_loss/a"), Some((2.0, 4)));
    assert_eq!(value("image_loss/b"), None);
    let broken = loss::evaluate(&sources, |_| {
        vec![DocumentLoss { text: (f64::NAN, 3), ..Default::default() }]
    });
    assert!(broken.unwrap_err().to_string().contains("a: the sum"));
}

fn batch() -> calumma::train::objective::NextTokenBatch {
    let packed = calumma::data::pack::PackedBatch {
        ids: vec![],
        document_ids: vec![],
        positions: vec![],
        loss_mask: vec![],
        sources: vec![],
        rows: 0,
        seq_len: 0,
    };
    calumma::train::objective::NextTokenBatch { packed, is_image: vec![] }
}
