//! Parts of questions that all families share.

use super::context::Context;
use super::describe::Kind;
use super::sample::pick;
use super::scene::Object;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// A question and its answer, if the scene allows one.
pub(super) type QuestionAnswer = Option<(String, String)>;

/// "yes" or "no".
pub(super) fn yes_no(answer: bool) -> String {
    if answer { "yes" } else { "no" }.to_owned()
}

/// A random phrasing with `{}` replaced by `what`.
pub(super) fn phrase(phrasings: &[&str], what: &str, rng: &mut ChaCha8Rng) -> String {
    pick(phrasings, rng).replacen("{}", what, 1)
}

/// A random element, if there is one.
pub(super) fn choose<T: Copy>(from: &[T], rng: &mut ChaCha8Rng) -> Option<T> {
    from.choose(rng).copied()
}

/// A random description that fits `object` alone; the size is mentioned only if necessary.
pub(super) fn unique(context: &Context<'_>, object: &Object, rng: &mut ChaCha8Rng) -> Option<Kind> {
    let pair = Kind::pair(object);
    let mut kinds = vec![pair, pair, Kind::shape(object.shape), Kind::color(object.color)];
    kinds.retain(|kind| kind.count(context.objects()) == 1);
    let sized = pair.sized(object.size);
    choose(&kinds, rng).or_else(|| (sized.count(context.objects()) == 1).then_some(sized))
}
