//! Scenes: captions and questions, checked by an independent evaluator, and detection rates.

mod detector;
mod evaluator;
mod files;

use calumma::data::Dataset;
use calumma::data::scenes::{Relation, Scenes, ScenesConfig, Split, is_held_out, render, scene_at};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The data set of a spec.
fn scenes(spec: &str) -> Scenes {
    Scenes::new(spec.parse::<ScenesConfig>().unwrap()).unwrap()
}

const SPECS: [&str; 3] = [
    "scenes:train?count=2500&seed=11",
    "scenes:val?count=1000&seed=12&objects=2-4",
    "scenes:held-out?count=1500&seed=13",
];

#[test]
fn every_caption_is_true_of_its_scene() {
    for spec in SPECS {
        let set = scenes(spec);
        for index in 0..set.len() {
            let fields = set.columns(index);
            let captions = fields["captions"].as_array().unwrap();
            assert!(captions.contains(&fields["caption"]));
            for caption in captions {
                let text = caption.as_str().unwrap();
                let wrong = evaluator::caption_error(text, &fields["scene"]);
                assert_eq!(wrong, None, "{text:?} of {}", fields["scene"]);
            }
        }
    }
}

#[test]
fn every_answer_follows_from_the_scene() {
    let mut families = HashMap::new();
    for spec in SPECS {
        let set = scenes(spec);
        for index in 0..set.len() {
            let fields = set.columns(index);
            for question in fields["questions"].as_array().unwrap() {
                let text = |key: &str| question[key].as_str().unwrap();
                let answer = evaluator::answer(text("question"), &fields["scene"]);
                let scene = &fields["scene"];
                assert_eq!(answer.as_deref(), Ok(text("answer")), "{question} of {scene}");
                *families.entry(text("family").to_owned()).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(families.len(), 9);
    assert!(families.values().all(|&count| count > 1500), "{families:?}");
}

#[test]
fn captions_and_answers_of_other_scenes_are_wrong() {
    let set = scenes("scenes:train?count=501&seed=14");
    let (mut refused, mut changed) = (0, 0);
    for index in 0..500 {
        let (own, other) = (set.columns(index), set.columns(index + 1));
        let caption = own["caption"].as_str().unwrap();
        refused += i32::from(evaluator::caption_error(caption, &other["scene"]).is_some());
        let question = own["question"].as_str().unwrap();
        let answer = evaluator::answer(question, &other["scene"]);
        changed += i32::from(answer.as_deref() != Ok(own["answer"].as_str().unwrap()));
    }
    assert!(refused > 470, "{refused}");
    assert!(changed > 250, "{changed}");
}

#[test]
fn held_out_pairs_never_occur_in_the_other_splits() {
    for (split, count) in [(Split::Train, 5000), (Split::Val, 5000), (Split::HeldOut, 1000)] {
        let mut pairs = HashSet::new();
        for index in 0..count {
            for object in scene_at(split, 1, index, 1..=4).objects {
                let held_out = is_held_out(object.shape, object.color);
                assert_eq!(held_out, split == Split::HeldOut);
                pairs.insert((object.shape, object.color));
            }
        }
        assert_eq!(pairs.len(), if split == Split::HeldOut { 8 } else { 56 });
    }
}

#[test]
fn training_texts_never_name_a_held_out_pair() {
    let held_out: Vec<String> = calumma::data::scenes::pairs(Split::HeldOut)
        .into_iter()
        .map(|(shape, color)| format!("{} {}", color.name(), shape.name()))
        .collect();
    let set = scenes("scenes:train?count=2000&seed=4");
    for index in 0..set.len() {
        let text = Value::Object(set.columns(index)).to_string();
        // Plurals start with the singular, so this finds them too.
        assert!(held_out.iter().all(|pair| !text.contains(pair.as_str())), "{text}");
    }
}

#[test]
fn items_do_not_depend_on_access_order_count_or_thread() {
    let long = scenes("scenes:train?count=300&seed=5");
    let short = scenes("scenes:train?count=40&seed=5");
    let forward: Vec<_> = (0..40).map(|index| long.get(index).unwrap()).collect();
    let backward = std::thread::spawn(move || {
        (0..40).rev().map(|index| short.get(index).unwrap()).collect::<Vec<_>>()
    });
    for (a, b) in forward.iter().zip(backward.join().unwrap().iter().rev()) {
        assert_eq!(a.fields, b.fields);
        assert_eq!(a.images, b.images);
    }
    let error = long.get(300).unwrap_err().to_string();
    assert!(error.contains("sample 300 of scenes:train?count=300"), "{error}");
}

#[test]
fn specs_open_as_data_sets_and_explode_by_question() {
    let spec = "scenes:val?count=20&seed=5&size=32";
    let plain = calumma::data::open(spec).unwrap();
    assert_eq!((plain.len(), plain.name()), (20, "scenes:val?count=20&seed=5&size=32&objects=1-4"));
    let exploded = calumma::data::open_as(spec, Some("questions"), None).unwrap();
    assert_eq!(exploded.len(), 160);
    let (sample, whole) = (exploded.get(9).unwrap(), plain.get(1).unwrap());
    assert_eq!(sample.images, whole.images);
    assert_eq!(sample.fields["question"], whole.fields["questions"][1]["question"]);
    assert_eq!(sample.fields["answer"], whole.fields["questions"][1]["answer"]);
    let error = calumma::data::open("scenes:tarin").err().unwrap().to_string();
    assert!(error.contains("allowed: train, val, held-out"), "{error}");
}

#[test]
fn no_two_objects_share_a_pixel() {
    for index in 0..300 {
        let scene = scene_at(Split::Train, 2, index, 2..=4);
        let mut drawn = HashSet::new();
        for object in &scene.objects {
            let alone = calumma::data::scenes::Scene { objects: vec![*object], ..scene.clone() };
            let image = render(&alone, 64);
            let tint = scene.background.rgb();
            let pixels = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0 != tint);
            assert!(pixels.map(|(x, y, _)| (x, y)).all(|at| drawn.insert(at)), "{scene:?}");
        }
    }
}

#[test]
fn stated_relations_are_clear() {
    let set = scenes("scenes:train?count=1000&seed=6&objects=2");
    let mut stated = 0;
    for index in 0..set.len() {
        let [a, b] = set.scene(index).objects[..] else { panic!("the spec asks for two objects") };
        let stated_here = set.captions(index).0.iter().any(|c| c.category.name() == "relation");
        stated += usize::from(stated_here);
        assert!(!stated_here || Relation::dominant(&a, &b).is_some());
    }
    assert!(stated > 300, "{stated}");
}
