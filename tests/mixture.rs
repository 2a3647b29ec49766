//! Mixtures: weights, epochs and exact resume.

use calumma::data::mixture::{Mixture, Source};

fn mixture(seed: u64) -> Mixture {
    let source = |name: &str, len, weight, templates: &[f64]| Source {
        name: name.to_owned(),
        len,
        weights: vec![weight],
        templates: templates.to_vec(),
    };
    let sources = vec![source("a", 7, 3.0, &[1.0]), source("b", 10, 1.0, &[1.0, 4.0])];
    Mixture::new(seed, sources).unwrap()
}

#[test]
fn a_restored_mixture_continues_like_an_uninterrupted_one() {
    let mut straight = mixture(5);
    let all: Vec<_> = (0..300).map(|_| straight.draw(0)).collect();
    for stop in [0, 1, 137, 299] {
        let mut first = mixture(5);
        (0..stop).for_each(|_| drop(first.draw(0)));
        let saved = serde_json::to_string(first.cursor()).unwrap();
        let mut second = mixture(5);
        second.restore(&serde_json::from_str(&saved).unwrap()).unwrap();
        let rest: Vec<_> = (stop..300).map(|_| second.draw(0)).collect();
        assert_eq!(rest, all[stop..]);
    }
    assert!(mixture(6).restore(straight.cursor()).is_err(), "a different seed");
}

#[test]
fn draws_follow_the_weights_and_each_epoch_visits_every_sample_once() {
    let mut mixture = mixture(1);
    let draws: Vec<_> = (0..4000).map(|_| mixture.draw(0)).collect();
    let share = draws.iter().filter(|draw| draw.source == 0).count() as f64 / 4000.0;
    assert!((share - 0.75).abs() < 0.03, "{share}");
    let of_b: Vec<_> = draws.iter().filter(|draw| draw.source == 1).collect();
    let second = of_b.iter().filter(|draw| draw.template == 1).count() as f64 / of_b.len() as f64;
    assert!((second - 0.8).abs() < 0.05, "{second}");
    let mut orders = Vec::new();
    for (epoch, draws) in of_b.chunks_exact(10).enumerate() {
        let order: Vec<usize> = draws.iter().map(|draw| draw.index).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        assert!(draws.iter().all(|draw| draw.epoch == epoch as u64));
        orders.push(order);
    }
    assert!(orders.windows(2).all(|pair| pair[0] != pair[1]), "every epoch has a different order");
}

#[test]
fn mixtures_without_data_or_weight_are_refused() {
    let source = |len, weight, templates| Source {
        name: "src".into(),
        len,
        weights: vec![weight],
        templates,
    };
    for (sources, words) in [
        (vec![], "at least one source"),
        (vec![source(0, 1.0, vec![1.0])], "src: holds no samples"),
        (vec![source(1, 0.0, vec![1.0])], "src: weight 0"),
        (vec![source(1, f64::NAN, vec![1.0])], "weight NaN"),
        (vec![source(1, 1.0, vec![])], "at least one template"),
    ] {
        let message = Mixture::new(0, sources).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn each_stage_draws_by_its_own_weights() {
    let source = |name: &str, weights: &[f64]| Source {
        name: name.to_owned(),
        len: 10,
        weights: weights.to_vec(),
        templates: vec![1.0],
    };
    let sources = vec![source("first", &[2.0, 1.0]), source("second", &[0.0, 1.0])];
    let mut mixture = Mixture::new(1, sources).unwrap();
    let mut share = |stage| {
        let drawn = (0..2000).filter(|_| mixture.draw(stage).source == 1).count();
        drawn as f64 / 2000.0
    };
    assert_eq!(share(0), 0.0);
    assert!((share(1) - 0.5).abs() < 0.05);
    assert!((share(2) - 0.5).abs() < 0.05, "the last weight applies to later stages");
    let silent = vec![source("first", &[1.0, 0.0])];
    let message = Mixture::new(1, silent).unwrap_err().to_string();
    assert!(message.contains("no source has a weight above 0 in stage 2"), "{message}");
}
