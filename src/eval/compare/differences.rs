//! Pairing the items of two evaluations and resampling the differences of their scores.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::Value;

use super::results::{Item, Results};
use crate::error::{Error, Result};
use crate::eval::bootstrap::{self, Resampling};

/// How two evaluations differ in one score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreDifference {
    /// The score, or `SCORE/TYPE` for the items of one type.
    pub name: String,
    /// Pairs in which both items have it.
    pub n: usize,
    /// Groups of pairs, which were resampled.
    pub groups: usize,
    /// The mean of A over the pairs.
    pub mean_a: f64,
    /// The mean of B over the pairs.
    pub mean_b: f64,
    /// B minus A.
    pub difference: f64,
    /// The 95 % interval of the difference; `None` for fewer than two groups.
    pub interval: Option<[f64; 2]>,
    /// The two-sided p-value of no difference; `None` for fewer than two groups.
    pub p_value: Option<f64>,
    /// Whether lower is better, as for losses.
    pub lower_is_better: bool,
    /// Pairs in which B is better.
    pub wins: usize,
    /// Pairs with equal values.
    pub ties: usize,
    /// Pairs in which B is worse.
    pub losses: usize,
    /// Pairs in which only one item has the score.
    pub unpaired: usize,
}

/// The comparison of two evaluations, A and B.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The measure.
    pub task: String,
    /// The data set.
    pub dataset: String,
    /// The directory of A.
    pub a: String,
    /// The directory of B.
    pub b: String,
    /// Items in both.
    pub paired: usize,
    /// Items only in A.
    pub only_in_a: usize,
    /// Items only in B.
    pub only_in_b: usize,
    /// How intervals and p-values were computed.
    pub resampling: Resampling,
    /// Every score over all pairs, then by type if there are several.
    pub scores: Vec<ScoreDifference>,
}

/// Pairs the items of `a` and `b` by `doc_id` and compares every score.
///
/// # Errors
/// If the tasks, the data sets or the items of a pair differ (the first difference is named), or
/// nothing pairs.
pub fn compare(a: &Results, b: &Results, resampling: Resampling) -> Result<Comparison> {
    let differ = |what: &str, a_is: &dyn std::fmt::Display, b_is: &dyn std::fmt::Display| {
        Err(Error::invalid(format!(
            "{} and {} cannot be compared: {what} is {a_is} in the first and {b_is} in the second",
            a.name, b.name
        )))
    };
    if a.task != b.task {
        return differ("the task", &a.task, &b.task);
    }
    if a.dataset != b.dataset {
        return differ("the data set", &a.dataset, &b.dataset);
    }
    let (first, second) = (keyed(&a.items), keyed(&b.items));
    let known: HashMap<_, _> = second.iter().copied().collect();
    let mut pairs = Vec::new();
    for ((doc_id, nth), item) in &first {
        let Some(other) = known.get(&(*doc_id, *nth)) else { continue };
        if let Some((field, a_is, b_is)) = first_difference(item, other) {
            return differ(&format!("{field} of doc_id {doc_id}"), &a_is, &b_is);
        }
        pairs.push((*item, *other));
    }
    if pairs.is_empty() {
        let message = "cannot be compared: no doc_id is in both";
        return Err(Error::invalid(format!("{} and {} {message}", a.name, b.name)));
    }
    Ok(Comparison {
        task: a.task.clone(),
        dataset: a.dataset.clone(),
        a: a.name.clone(),
        b: b.name.clone(),
        paired: pairs.len(),
        only_in_a: first.len() - pairs.len(),
        only_in_b: second.len() - pairs.len(),
        resampling,
        scores: differences(&pairs, pairs.len() == first.len().max(second.len()), resampling),
    })
}

type Pair<'a> = (&'a Item, &'a Item);

/// The items, each with its `doc_id` and its number among the items with this `doc_id`.
fn keyed(items: &[Item]) -> Vec<((u64, usize), &Item)> {
    let mut seen: HashMap<u64, usize> = HashMap::new();
    let key = |item: &Item| {
        let count = seen.entry(item.doc_id).or_default();
        *count += 1;
        (item.doc_id, *count - 1)
    };
    items.iter().map(key).zip(items).collect()
}

/// The first field in which the items of a pair differ although it should be equal, and its values.
fn first_difference(a: &Item, b: &Item) -> Option<(&'static str, String, String)> {
    let kinds = [a, b].map(|item| Value::from(item.kind.clone()));
    let ids = [a, b].map(|item| Value::from(item.id.clone()));
    [
        ("id", &ids[0], &ids[1]),
        ("input", &a.input, &b.input),
        ("target", &a.target, &b.target),
        ("type", &kinds[0], &kinds[1]),
    ]
    .into_iter()
    .find(|(_, a, b)| a != b)
    .map(|(field, a, b)| (field, a.to_string(), b.to_string()))
}

/// The differences in every score; `same_set` says that both evaluations have the same items.
fn differences(pairs: &[Pair<'_>], same_set: bool, resampling: Resampling) -> Vec<ScoreDifference> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in pairs.iter().flat_map(|(a, b)| a.scores.iter().chain(&b.scores)) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut kinds: BTreeMap<&str, Vec<Pair<'_>>> = BTreeMap::new();
    for pair in pairs {
        kinds.entry(pair.0.kind.as_deref().unwrap_or("none")).or_default().push(*pair);
    }
    names.retain(|name| same_set || *name != "cider");
    let mut found = Vec::new();
    for name in names {
        let title = match name {
            "bleu_4" | "meteor" => format!("mean {name} of items"),
            name => name.to_owned(),
        };
        found.push(difference(name, title.clone(), pairs, resampling));
        for (kind, of) in kinds.iter().filter(|_| kinds.len() > 1) {
            found.push(difference(name, format!("{title}/{kind}"), of, resampling));
        }
    }
    found.retain(|difference| difference.n > 0);
    found
}

/// The difference in the score `name` over `pairs`, under the name `title`.
fn difference(
    name: &str,
    title: String,
    pairs: &[Pair<'_>],
    resampling: Resampling,
) -> ScoreDifference {
    let (mut sum_a, mut sum_b, mut n, mut unpaired) = (0.0, 0.0, 0, 0);
    let (mut higher, mut lower) = (0, 0);
    let mut groups: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for (item, other) in pairs {
        match (item.score(name), other.score(name)) {
            (Some(a), Some(b)) => {
                (sum_a, sum_b, n) = (sum_a + a, sum_b + b, n + 1);
                higher += usize::from(b > a);
                lower += usize::from(b < a);
                let group = groups.entry(item.group()).or_default();
                *group = (group.0 + (b - a), group.1 + 1);
            }
            (None, None) => {}
            _ => unpaired += 1,
        }
    }
    let sums: Vec<_> = groups.into_values().collect();
    let resampled = bootstrap::paired(&sums, resampling);
    let mean = |sum: f64| if n == 0 { 0.0 } else { sum / n as f64 };
    let lower_is_better = name.ends_with("loss");
    let (wins, losses) = if lower_is_better { (lower, higher) } else { (higher, lower) };
    ScoreDifference {
        name: title,
        n,
        groups: sums.len(),
        mean_a: mean(sum_a),
        mean_b: mean(sum_b),
        difference: mean(sums.iter().map(|(sum, _)| sum).sum()),
        interval: resampled.map(|found| found.interval),
        p_value: resampled.map(|found| found.p_value),
        lower_is_better,
        wins,
        ties: n - wins - losses,
        losses,
        unpaired,
    }
}
