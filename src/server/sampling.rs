//! Settings of generation in requests: OpenAI's names, and vLLM's for what OpenAI does not have.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType};
use utoipa::{PartialSchema, ToSchema};

use super::config::Limits;
use super::fault::Fault;
use crate::generate::GenerationConfig;

/// Below this a temperature means the most likely tokens, as in vLLM.
const GREEDY_BELOW: f32 = 1e-2;

/// A field of others' protocols that changes nothing here.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Ignored(IgnoredAny);

/// A field of others' protocols that is taken only where it asks for nothing: null, false, 0, an empty list, object or text,
/// `auto` or `none`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Neutral;

impl<'de> Deserialize<'de> for Neutral {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

/// `Neutral` if nothing is asked for.
fn neutral<E: de::Error>(asks_for_nothing: bool) -> Result<Neutral, E> {
    match asks_for_nothing {
        true => Ok(Neutral),
        false => Err(E::custom("this server does not do that; allowed: its default")),
    }
}

/// Builds nothing of what it refuses.
impl<'de> Visitor<'de> for Neutral {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that asks for nothing")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_bool<E: de::Error>(self, asked: bool) -> Result<Self, E> {
        neutral(!asked)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self, E> {
        neutral(number == 0)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self, E> {
        neutral(number == 0)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self, E> {
        neutral(number == 0.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self, E> {
        neutral(["", "auto", "none"].contains(&text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        neutral(list.next_element::<IgnoredAny>()?.is_none())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self, A::Error> {
        neutral(object.next_key::<IgnoredAny>()?.is_none())
    }
}

/// Implements the schema of a value of any kind with a description.
macro_rules! any_value {
    ($type:ty, $name:literal, $description:literal) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
                any.description(Some($description)).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                $name.into()
            }
        }
    };
}

any_value!(Ignored, "Ignored", "Changes nothing here.");
any_value!(
    Neutral,
    "Neutral",
    "Taken where it asks for nothing: null, false, 0, empty, `auto` or `none`."
);

/// One value, or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected one value or a list of them")]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// The settings of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) max_tokens: Option<usize>,
    pub(super) stop: Option<OneOrMany<String>>,
    pub(super) seed: Option<i128>,
    pub(super) guidance_scale: Option<f32>,
    pub(super) negative_prompt: Option<String>,
    pub(super) n: Option<usize>,
}

impl Settings {
    /// Those of the checkpoint, `own`, with the ones of the request. Without a seed a new one is drawn.
    ///
    /// # Errors
    /// If a value is out of range; the fault names it.
    pub(super) fn over(
        &self,
        own: &GenerationConfig,
        limits: &Limits,
    ) -> Result<GenerationConfig, Fault> {
        let mut config = GenerationConfig { candidates: 1, ..own.clone() };
        for sampling in [&mut config.text, &mut config.image] {
            match self.temperature {
                Some(temperature) if (0.0..GREEDY_BELOW).contains(&temperature) => {
                    sampling.greedy = true;
                }
                Some(temperature) => {
                    (sampling.greedy, sampling.temperature) = (false, temperature);
                }
                None => {}
            }
            sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
            sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
            // vLLM writes 0 or -1 for all.
            if let Some(top_k) = self.top_k {
                sampling.top_k = usize::try_from(top_k).ok().filter(|top_k| *top_k > 0);
            }
        }
        let penalty = self.repetition_penalty.unwrap_or(config.text.repetition_penalty);
        config.text.repetition_penalty = penalty;
        config.guidance_scale = self.guidance_scale.unwrap_or(config.guidance_scale);
        if let Some(negative) = &self.negative_prompt {
            config.negative_prompt.clone_from(negative);
        }
        config.max_new_tokens = Some(match self.max_tokens {
            None => config.max_new_tokens.unwrap_or(limits.tokens).min(limits.tokens),
            Some(tokens) if (1..=limits.tokens).contains(&tokens) => tokens,
            Some(tokens) => {
                let message = format!("max_tokens is {tokens}; allowed: 1 to {}", limits.tokens);
                return Err(Fault::of("max_tokens", message));
            }
        });
        config.stop_strings.extend(self.stop.clone().map_or(Vec::new(), OneOrMany::into_vec));
        config.seed = match self.seed {
            // Short enough for programs that have numbers in f64 only.
            None => rand::random::<u32>().into(),
            Some(seed) => u64::try_from(seed)
                .or_else(|_| i64::try_from(seed).map(i64::cast_unsigned))
                .map_err(|_| Fault::of("seed", format!("seed is {seed}; allowed: 64 bits")))?,
        };
        config.validate()?;
        Ok(config)
    }

    /// How many answers are asked for.
    ///
    /// # Errors
    /// If none, or too many.
    pub(super) fn answers(&self, limits: &Limits) -> Result<usize, Fault> {
        let n = self.n.unwrap_or(1);
        match (1..=limits.answers).contains(&n) {
            true => Ok(n),
            false => Err(Fault::of("n", format!("n is {n}; allowed: 1 to {}", limits.answers))),
        }
    }
}

/// A request with settings and the fields that clients send for other servers, which change nothing here. Anything else is
/// refused by name.
macro_rules! request {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$of:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            /// One of `/v1/models`; the first without a name.
            pub(super) model: Option<String>,
            $($(#[$of])* pub(super) $field: $type,)*
            /// Divides the scores of tokens, 0 or more; 0 takes the most likely token. By default the checkpoint's.
            temperature: Option<f32>,
            /// Only the likeliest tokens whose probabilities add up to this, above 0 to 1.
            top_p: Option<f32>,
            /// Only this many of the likeliest tokens; 0 and -1: all.
            top_k: Option<i64>,
            /// Only tokens with this share of the likeliest one's probability, 0 to 1.
            min_p: Option<f32>,
            /// Divides the scores of text tokens that were there, above 0; 1 does nothing.
            repetition_penalty: Option<f32>,
            /// How many tokens an answer may have, codes of images included.
            #[schema(minimum = 1)]
            max_tokens: Option<usize>,
            /// The same by its newer name, which goes first.
            #[schema(minimum = 1)]
            max_completion_tokens: Option<usize>,
            /// Texts that end an answer, which does not have them.
            stop: Option<OneOrMany<String>>,
            /// 64 bits, signed or not. The same request with the same seed has the same answer; without one, one is drawn.
            #[schema(value_type = Option<i64>)]
            seed: Option<i128>,
            /// How strongly drawings follow their prompt; 1: as the model does by itself.
            guidance_scale: Option<f32>,
            /// What drawings are led away from, if they are guided.
            negative_prompt: Option<String>,
            /// How many answers; the seed of answer `i` is `seed + i`.
            #[schema(minimum = 1)]
            n: Option<usize>,
            #[serde(default, rename = "frequency_penalty")]
            _frequency_penalty: $crate::server::sampling::Neutral,
            #[serde(default, rename = "presence_penalty")]
            _presence_penalty: $crate::server::sampling::Neutral,
            #[serde(default, rename = "logit_bias")]
            _logit_bias: $crate::server::sampling::Neutral,
            #[serde(default, rename = "ignore_eos")]
            _ignore_eos: $crate::server::sampling::Neutral,
            #[serde(default, rename = "user")]
            _user: $crate::server::sampling::Ignored,
            #[serde(default, rename = "metadata")]
            _metadata: $crate::server::sampling::Ignored,
            #[serde(default, rename = "store")]
            _store: $crate::server::sampling::Ignored,
            #[serde(default, rename = "service_tier")]
            _service_tier: $crate::server::sampling::Ignored,
            #[serde(default, rename = "safety_identifier")]
            _safety_identifier: $crate::server::sampling::Ignored,
            #[serde(default, rename = "prompt_cache_key")]
            _prompt_cache_key: $crate::server::sampling::Ignored,
        }

        impl $name {
            pub(super) fn settings(&self) -> Settings {
                Settings {
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    repetition_penalty: self.repetition_penalty,
                    max_tokens: self.max_completion_tokens.or(self.max_tokens),
                    stop: self.stop.clone(),
                    seed: self.seed,
                    guidance_scale: self.guidance_scale,
                    negative_prompt: self.negative_prompt.clone(),
                    n: self.n,
                }
            }
        }
    };
}

pub(super) use request;
