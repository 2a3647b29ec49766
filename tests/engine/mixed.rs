//! Requests of all kinds, and a hand-written constraint.

use std::sync::Arc;

use calumma::generate::{
    Constraint, GenerationConfig, GenerationMode, GuidanceRamp, Request, SamplingConfig,
    StopStrings,
};
use calumma::tokenize::{TokenBytes, TokenClass, Vocabulary};
use calumma::{Error, Result};

use super::CODES;
use crate::scripted::{code, text, vocabulary};

/// The text id at each place is one of those given, and the text ends with the last place.
#[derive(Clone, Debug)]
pub struct Pattern {
    vocab: usize,
    places: Vec<Vec<u32>>,
    at: usize,
}

impl Pattern {
    pub fn boxed(places: Vec<Vec<u32>>) -> Box<dyn Constraint> {
        Box::new(Self { vocab: vocabulary().len(), places, at: 0 })
    }
}

impl Constraint for Pattern {
    fn allowed(&mut self) -> Result<Vec<bool>> {
        let mut allowed = vec![false; self.vocab];
        let next = self.places.get(self.at).into_iter().flatten();
        next.for_each(|&id| allowed[id as usize] = true);
        Ok(allowed)
    }

    fn may_end(&mut self) -> bool {
        self.at == self.places.len()
    }

    fn forced(&mut self) -> Vec<u32> {
        let alone = self.places[self.at..].iter().take_while(|ids| ids.len() == 1);
        alone.map(|ids| ids[0]).collect()
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        let next = self.places.get(self.at);
        if !next.is_some_and(|ids| ids.contains(&id)) {
            return Err(Error::invalid(format!("id {id} at {} of the pattern", self.at)));
        }
        self.at += 1;
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// `len` text ids that depend on `salt`.
pub fn texts(salt: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|at| text((salt + at * at * 7 + at / 3) % 10)).collect()
}

/// Begin-image, `codes` of an image and, if that is all of them, end-image.
pub fn block(vocabulary: &Vocabulary, codes: usize) -> Vec<u32> {
    let special = vocabulary.special();
    let ids = (0..codes as u32).map(|at| code(at * 5 % 12));
    let end = (codes == CODES).then_some(special.end_image.unwrap());
    std::iter::once(special.begin_image.unwrap()).chain(ids).chain(end).collect()
}

/// Prompts of no block to four: some begin alike, one ends with a block, one has an image, one an open one.
fn prompt(vocabulary: &Vocabulary, kind: usize, salt: u32) -> Vec<u32> {
    let bos = vec![vocabulary.special().bos.unwrap()];
    let common = texts(3, 149);
    match kind {
        0 => bos,
        1 => [bos, texts(salt, 5 + salt as usize % 60)].concat(),
        2 => [bos, common, texts(salt, 40)].concat(),
        3 => [bos, common[..70].to_vec(), block(vocabulary, CODES), texts(salt, 3)].concat(),
        4 => [bos, texts(salt, 58), block(vocabulary, 1 + salt as usize % 15)].concat(),
        _ => [bos, common[..127].to_vec()].concat(),
    }
}

fn sampling(kind: usize) -> (SamplingConfig, SamplingConfig) {
    let (text, image) = (SamplingConfig::TEXT, SamplingConfig::IMAGE);
    match kind {
        0 => (text, image),
        1 => (
            SamplingConfig { greedy: true, ..text },
            SamplingConfig { temperature: 1.3, top_p: 1.0, ..image },
        ),
        2 => (
            SamplingConfig { top_k: Some(4), temperature: 1.0, ..text },
            SamplingConfig { greedy: true, ..image },
        ),
        _ => (
            SamplingConfig { repetition_penalty: 1.0, ..text },
            SamplingConfig { repetition_penalty: 1.5, top_k: Some(9), ..image },
        ),
    }
}

/// Ends texts at `strings` of the letters that are the text ids.
fn stop_strings(vocabulary: &Vocabulary, strings: &[&str]) -> StopStrings {
    let is_text = |(id, _): &(u32, &String)| vocabulary.class(*id) == TokenClass::Text;
    let piece = |named: (u32, &String)| Some(named).filter(is_text).map(|(_, name)| name.clone());
    let pieces = (0..).zip(vocabulary.names()).map(piece);
    let tokens = TokenBytes::from_pieces(pieces, Some(vocabulary.special().begin_image.unwrap()));
    let strings: Vec<String> = strings.iter().map(|text| (*text).to_owned()).collect();
    StopStrings::new(&strings, Arc::new(tokens)).unwrap()
}

/// Request number `n` of a mix of modes, lengths, seeds, guidance, negative prompts, limits, stop ids, stop strings,
/// given codes and constraints.
pub fn mixed_request(n: usize) -> Request {
    let vocabulary = vocabulary();
    let salt = n as u32;
    let kind = n % 6;
    let mode = match (n / 6 + n) % 3 {
        0 => GenerationMode::Auto,
        1 => GenerationMode::ImageOnly,
        _ => GenerationMode::TextOnly,
    };
    let (guidance_scale, image_guidance_scale) =
        [(3.0, None), (1.0, None), (2.5, Some(1.2)), (0.0, None), (1.0, Some(1.0))][n % 5];
    let (text_sampling, image_sampling) = sampling(n % 4);
    let config = GenerationConfig {
        text: text_sampling,
        image: image_sampling,
        guidance_scale,
        image_guidance_scale,
        guidance_interval: [[0.0, 1.0], [0.0, 0.4], [0.3, 0.8], [0.0, 1.0]][n / 3 % 4],
        guidance_ramp: [GuidanceRamp::Constant, GuidanceRamp::Linear][n / 5 % 2],
        seed: 1000 + n as u64,
        max_new_tokens: Some([30, 1, 90, 53][n / 2 % 4]),
        mode,
        stop_ids: if n % 7 == 3 { vec![text(2)] } else { Vec::new() },
        ..GenerationConfig::default()
    };
    let mut request = Request::new(prompt(vocabulary, kind, salt), config);
    // What is known of an image that the prompt has begun is in the prompt.
    if kind != 4 && mode != GenerationMode::TextOnly && n % 4 < 2 {
        let given = |at: usize| (at % 3 != n % 3).then(|| code((at * n) as u32 % 12));
        request.kept = (0..CODES).map(given).collect();
    }
    if kind != 4 && mode == GenerationMode::TextOnly && n % 4 != 1 {
        let places = (0..3 + salt % 9).map(|at| match at % 4 {
            3 => vec![text((at + salt) % 10)],
            _ => vec![text(at % 10), text((at + 3) % 10), text((at * salt + 5) % 10)],
        });
        request.constraint = Some(Pattern::boxed(places.collect()));
        // A stop id may not be needed inside the pattern.
        request.config.stop_ids.clear();
    }
    if n % 4 == 2 {
        // Shorter and longer than the prompts, and more than a block.
        let bos = vocabulary.special().bos.unwrap();
        request.negative = [vec![bos], texts(salt + 5, n * 7 % 80)].concat();
    }
    if n % 5 == 1 && mode != GenerationMode::ImageOnly {
        request.stop = Some(stop_strings(vocabulary, &["ab", "cde", "hh", "j"]));
    }
    request
}

/// The first `count` requests of the mix.
pub fn mixed(count: usize) -> Vec<Request> {
    (0..count).map(mixed_request).collect()
}

#[test]
fn the_mix_has_every_kind() {
    let requests = mixed(48);
    let some = |claim: fn(&Request) -> bool| requests.iter().filter(|r| claim(r)).count();
    assert!(some(|r| !r.kept.is_empty()) > 5);
    assert!(some(|r| r.constraint.is_some()) > 5);
    assert!(some(|r| r.stop.is_some()) > 5);
    let guided = |r: &Request| r.config.guidance_scale != 1.0 && !r.negative.is_empty();
    assert!(requests.iter().filter(|r| guided(r)).count() > 5);
    for mode in [GenerationMode::Auto, GenerationMode::ImageOnly, GenerationMode::TextOnly] {
        assert!(requests.iter().filter(|request| request.config.mode == mode).count() > 10);
    }
    let guided = |r: &Request| r.config.guidance().branches().len();
    for lanes in 1..=3 {
        assert!(requests.iter().filter(|request| guided(request) == lanes).count() > 5);
    }
    let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap();
    assert!(longest + 90 <= super::CONTEXT, "{longest}");
}
