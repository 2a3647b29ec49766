//! Generated images.

use calumma::data::scenes::{Category, render};
use calumma::error::Result;
use calumma::eval::text_to_image::prompts;
use calumma::eval::{drawing, geneval, text_to_image};
use image::RgbImage;
use serde_json::{Value, json};

use super::{Rows, extent};

#[test]
fn rendered_scenes_score_one_and_images_of_other_scenes_nearly_zero() {
    let config = "scenes:val?count=240&seed=5".parse().unwrap();
    let prompts = prompts(&config, None).unwrap();
    let of = |category| prompts.iter().filter(|p| p.caption.category == category).count();
    assert!(Category::ALL.into_iter().all(|category| of(category) >= 20));

    let mut firsts = Vec::new();
    let truth = text_to_image::evaluate(prompts.clone(), 100, |texts, first| {
        firsts.push(first);
        let scenes = prompts[first..first + texts.len()].iter();
        Ok(scenes.map(|prompt| render(&prompt.scene, 64)).collect())
    })
    .unwrap();
    assert_eq!(firsts, [0, 100, 200]);
    for (name, score) in truth.scores() {
        assert_eq!(score.value, 1.0, "{name}");
    }

    let shifted = |at: usize| &prompts[(at + 97) % prompts.len()];
    let chance = text_to_image::evaluate(prompts.clone(), 100, |texts, first| {
        Ok((first..first + texts.len()).map(|at| render(&shifted(at).scene, 64)).collect())
    })
    .unwrap();
    let score = |name: &str| {
        let scores = chance.scores();
        scores.iter().find(|(known, _)| known == name).unwrap().1.value
    };
    assert!(score("accuracy") < 0.08 && score("single_object") < 0.15);
    assert!(score("several/color_binding") < 0.08);
}

#[test]
fn swapped_colours_keep_shapes_and_colours_but_not_the_binding() {
    let config = "scenes:val?count=200&seed=9&objects=2".parse().unwrap();
    let mut prompts = prompts(&config, None).unwrap();
    prompts.retain(|p| {
        let [a, b] = &p.scene.objects[..] else { return false };
        a.color != b.color && a.shape != b.shape
    });
    let swapped = text_to_image::evaluate(prompts.clone(), 64, |texts, first| {
        let image = |at: usize| {
            let mut scene = prompts[at].scene.clone();
            let (a, b) = (scene.objects[0].color, scene.objects[1].color);
            (scene.objects[0].color, scene.objects[1].color) = (b, a);
            render(&scene, 64)
        };
        Ok((first..first + texts.len()).map(image).collect())
    })
    .unwrap();
    let share = |measure: fn(&text_to_image::Judgement) -> bool| swapped.share(|_| true, measure);
    assert_eq!(share(|one| one.shapes).value, 1.0);
    assert_eq!(share(|one| one.colors).value, 1.0);
    assert_eq!(share(|one| one.count).value, 1.0);
    assert_eq!(share(|one| one.pairs).value, 0.0);
    assert_eq!(share(|one| one.satisfied).value, 0.0);
}

#[test]
fn held_out_prompts_name_pairs_absent_from_training() {
    let config = "scenes:held-out?count=50&objects=1".parse().unwrap();
    for prompt in prompts(&config, Some(30)).unwrap() {
        let object = prompt.scene.objects[0];
        assert!(calumma::data::scenes::is_held_out(object.shape, object.color));
    }
    assert!(prompts(&config, Some(0)).unwrap_err().to_string().contains("limit"));
}

/// Draws the grey of the row that a text names, or of the next one.
struct Copyist {
    off: u8,
}

impl drawing::Artist for Copyist {
    fn draw(&mut self, texts: &[String]) -> Result<Vec<RgbImage>> {
        let grey = |text: &String| text.strip_prefix("row ").unwrap().parse::<u8>().unwrap();
        let of = |text| RgbImage::from_pixel(32, 32, image::Rgb([grey(text) + self.off; 3]));
        Ok(texts.iter().map(of).collect())
    }

    fn reconstruct(&mut self, images: &[RgbImage]) -> Result<Vec<(RgbImage, RgbImage)>> {
        Ok(images.iter().map(|image| (image.clone(), image.clone())).collect())
    }
}

#[test]
fn generated_images_are_retrieved_among_the_data_set_s_own() {
    let rows = Rows((0..40).map(|n| json!({"n": n, "kind": "row"})).collect());
    let scores = |off| {
        drawing::evaluate(&rows, extent(16), "{kind} {n}", &mut Copyist { off }, None).unwrap()
    };
    let right = scores(0);
    assert_eq!((right.retrieval.value, right.reconstructed.value), (1.0, 1.0));
    assert_eq!(right.sheet.len(), 64);
    // The next row's grey: only the last row, which has no next one, is still nearest.
    let near = scores(1);
    assert_eq!(near.retrieval.value, 1.0 / 40.0);
    assert_eq!(near.retrieval_at_5.value, 1.0);
    assert_eq!(near.samples[3].response, json!("row 4"));
    let report = scores(20).report("rows");
    assert_eq!(report.score("retrieval_at_5").unwrap().value, 5.0 / 40.0);
    assert!((report.score("retrieval_chance").unwrap().value - 1.0 / 40.0).abs() < 1e-12);
    let unknown =
        drawing::evaluate(&rows, extent(16), "{name}", &mut Copyist { off: 0 }, None).unwrap_err();
    assert!(unknown.to_string().contains("rows#0"), "{unknown}");
}

#[test]
fn geneval_images_are_written_once_in_its_layout() {
    let rows = Rows(vec![
        json!({"prompt": "a photo of a bench", "tag": "single_object", "metadata": {"tag": "single_object", "prompt": "a photo of a bench"}}),
        json!({"prompt": "two cups"}),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let mut drawn = Vec::new();
    let mut go = || {
        geneval::draw(&rows, extent(4), dir.path(), |prompt, first| {
            drawn.push((prompt.to_owned(), first));
            Ok(vec![RgbImage::from_pixel(8, 8, image::Rgb([9; 3])); 4])
        })
        .unwrap()
    };
    let report = go();
    assert_eq!(report.score("pictures_written").unwrap().value, 8.0);
    std::fs::remove_file(dir.path().join("00001/samples/0002.png")).unwrap();
    go();
    let told: Vec<usize> = drawn.iter().map(|(_, first)| *first).collect();
    assert_eq!(told, [0, 4, 4]);
    let line = std::fs::read_to_string(dir.path().join("00000/metadata.jsonl")).unwrap();
    let metadata: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(metadata["tag"], json!("single_object"));
    assert!(dir.path().join("00000/samples/0003.png").is_file());
}
