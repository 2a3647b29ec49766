//! The reward for pictures of scenes: what the detector finds of the caption's claims.

use super::config::{SceneConfig, SceneScore};
use super::failures::{FailureKind, Failures};
use super::rollout::{Reward, Rollout};
use crate::data::Fields;
use crate::data::scenes::{Claim, Detector};
use crate::error::Result;

/// Column with the claims of the caption.
const CLAIMS: &str = "claims";

/// Column with the number of objects that the caption speaks of.
const OBJECTS: &str = "objects";

/// Scores whether a drawn picture shows what its caption claims, 0 to 1. An answer that is not one picture
/// gets 0.
#[derive(Clone, Debug)]
pub struct SceneReward {
    name: String,
    config: SceneConfig,
    detector: Detector,
    failures: Failures,
}

/// What a picture must show.
struct Demand {
    claims: Vec<Claim>,
    /// The number of objects, if it matters.
    objects: Option<usize>,
}

impl SceneReward {
    /// The reward called `name`.
    pub fn new(name: &str, config: &SceneConfig) -> Self {
        Self {
            name: name.to_owned(),
            config: config.clone(),
            detector: Detector::new(),
            failures: Failures::default(),
        }
    }

    /// What the sample with these columns demands; `None` if it is none of a scene, an error in words if a
    /// column is unusable.
    fn demand(&self, fields: &Fields) -> std::result::Result<Option<Demand>, String> {
        let Some(claims) = fields.get(CLAIMS).filter(|claims| !claims.is_null()) else {
            return Ok(None);
        };
        let claims: Vec<Claim> = serde_json::from_value(claims.clone()).map_err(|error| {
            format!("the column {CLAIMS} holds no claims of a caption: {error}")
        })?;
        if claims.is_empty() {
            return Err(format!("the column {CLAIMS} is empty; one claim or more is needed"));
        }
        if !self.config.exact {
            return Ok(Some(Demand { claims, objects: None }));
        }
        let objects = fields.get(OBJECTS).and_then(serde_json::Value::as_u64);
        let missing = || format!("the column {OBJECTS} holds no number, which `exact` needs");
        let objects = objects.ok_or_else(missing)? as usize;
        Ok(Some(Demand { claims, objects: Some(objects) }))
    }

    /// The share of the demand that the picture fulfils, or whether it fulfils all of it.
    fn reward(&self, demand: &Demand, rollout: &Rollout<'_>) -> f64 {
        let [image] = rollout.images[..] else { return 0.0 };
        let found = self.detector.detect(image);
        let number = demand.objects.map(|objects| objects == found.len());
        let number = number.map(|holds| f64::from(u8::from(holds)));
        let shares = demand.claims.iter().map(|claim| claim.satisfied_share(&found)).chain(number);
        let shares: Vec<f64> = shares.collect();
        let num_held = shares.iter().filter(|share| **share == 1.0).count();
        let count = shares.len() as f64;
        match self.config.score {
            SceneScore::All => f64::from(u8::from(num_held == shares.len())),
            SceneScore::Fraction => num_held as f64 / count,
            SceneScore::Attributes => shares.iter().sum::<f64>() / count,
        }
    }
}

impl Reward for SceneReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Option<f64>>> {
        let mut rewards = Vec::with_capacity(rollouts.len());
        for rollout in rollouts {
            rewards.push(match self.demand(rollout.fields) {
                Ok(demand) => demand.map(|demand| self.reward(&demand, rollout)),
                Err(message) => {
                    self.failures.add(FailureKind::BadField, 1, message);
                    None
                }
            });
        }
        Ok(rewards)
    }

    fn failures(&self) -> Failures {
        self.failures.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use image::RgbImage;
    use serde_json::{Value, json};

    use super::*;
    use crate::data::scenes::{Background, Scenes, blank, render};

    fn scenes() -> Scenes {
        Scenes::new("scenes:val?count=40&seed=3".parse().unwrap()).unwrap()
    }

    fn score(reward: &mut SceneReward, fields: &Fields, images: Vec<&RgbImage>) -> Option<f64> {
        let rollout = Rollout {
            prompt: "draw",
            completion: "<image>",
            images,
            fields,
            ids: &[],
            tokens: 66,
            is_truncated: false,
            is_well_formed: true,
        };
        reward.score(&[rollout]).unwrap()[0]
    }

    fn reward(score: SceneScore, exact: bool) -> SceneReward {
        SceneReward::new("scene", &SceneConfig { score, exact })
    }

    #[test]
    fn the_picture_of_a_caption_has_the_full_reward_and_an_empty_one_has_none() {
        let set = scenes();
        for score_of in [SceneScore::All, SceneScore::Fraction, SceneScore::Attributes] {
            let mut reward = reward(score_of, true);
            for index in 0..40 {
                let (fields, picture) = (set.columns(index), render(&set.scene(index), 64));
                assert_eq!(score(&mut reward, &fields, vec![&picture]), Some(1.0), "{index}");
                let empty = blank(Background::White, 64);
                assert_eq!(score(&mut reward, &fields, vec![&empty]), Some(0.0), "{index}");
                assert_eq!(score(&mut reward, &fields, vec![]), Some(0.0));
                assert_eq!(score(&mut reward, &fields, vec![&picture; 2]), Some(0.0));
            }
            assert!(reward.failures().is_empty());
        }
    }

    #[test]
    fn a_part_of_the_claims_has_a_part_of_the_reward() {
        let set = scenes();
        let object = set.scene(0).objects[0];
        let (shape, color) = (object.shape, object.color);
        let has = |shape| json!({"claim": "has-object", "kind": {"shape": shape, "color": color}});
        let missing = if shape.name() == "star" { "ring" } else { "star" };
        let mut scene = set.scene(0);
        scene.objects.truncate(1);
        let picture = render(&scene, 64);
        let fields = |claims: Value, objects: usize| {
            let claims = ("claims".to_owned(), claims);
            Fields::from_iter([claims, ("objects".to_owned(), json!(objects))])
        };
        let both = fields(json!([has(json!(shape)), has(json!(missing))]), 1);
        let of = |score_of, exact, fields: &Fields| {
            score(&mut reward(score_of, exact), fields, vec![&picture])
        };
        assert_eq!(of(SceneScore::Fraction, false, &both), Some(0.5));
        assert_eq!(of(SceneScore::Fraction, true, &both), Some(2.0 / 3.0));
        assert_eq!(of(SceneScore::Attributes, false, &both), Some(0.75), "the colour is right");
        assert_eq!(of(SceneScore::All, false, &both), Some(0.0));
        let more = fields(json!([has(json!(shape))]), 2);
        assert_eq!(of(SceneScore::All, false, &more), Some(1.0));
        assert_eq!(of(SceneScore::All, true, &more), Some(0.0));
        assert_eq!(of(SceneScore::Fraction, true, &more), Some(0.5));
    }

    #[test]
    fn samples_without_claims_have_no_reward_and_broken_claims_are_counted() {
        let picture = blank(Background::White, 64);
        let mut reward = reward(SceneScore::All, true);
        let of = |reward: &mut SceneReward, fields: Value| {
            score(reward, fields.as_object().unwrap(), vec![&picture])
        };
        assert_eq!(of(&mut reward, json!({"caption": "a red circle"})), None);
        assert!(reward.failures().is_empty());
        let claim = json!([{"claim": "count", "kind": {"shape": "star"}, "count": 0}]);
        for broken in [
            json!({"claims": "a red circle", "objects": 1}),
            json!({"claims": [], "objects": 1}),
            json!({"claims": claim, "objects": "one"}),
        ] {
            assert_eq!(of(&mut reward, broken), None);
        }
        assert_eq!(reward.failures().count(FailureKind::BadField), 3);
        assert_eq!(of(&mut reward, json!({"claims": claim, "objects": 0})), Some(1.0));
    }
}
