//! Two evaluations of the same items side by side: by how much they differ, and whether that may be
//! chance.
//!
//! [`Evaluation::read`] takes the directory that [`Report::write`](super::Report::write) wrote;
//! [`compare`] pairs the items and applies the paired [`bootstrap`] to every score of `samples.jsonl`,
//! over all items and by type. Scores of a whole set, such as the use of a codebook, have no values by item
//! and are not compared; of BLEU-4 and METEOR, whose score of a set is no mean, the means over items are,
//! and so named. CIDEr's values of items depend on the set, so it is compared only where both are of one.
//!
//! Items are resampled in groups: those with the same `group`, where the samples have such a field,
//! else the questions that were taken from one sample (`id` up to `, questions N`), else the items
//! with the same `id`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bootstrap::{self, Resampling};
use super::vqa::QUESTIONS;
use crate::error::{Error, Result};
use crate::files::{read_json, write_atomic};

/// One line of `samples.jsonl`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Item {
    /// Index in the data set; several images of one sample share it.
    pub doc_id: u64,
    /// Where the item comes from.
    pub id: String,
    /// What the model was asked beside the image.
    #[serde(default)]
    pub input: Value,
    /// What is right.
    #[serde(default)]
    pub target: Value,
    /// The group of items that it is counted in.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// Items that hang together; see the module.
    #[serde(default)]
    pub group: Option<String>,
    /// By measure, in the file's order; one that is no number is `None`.
    #[serde(deserialize_with = "in_order")]
    pub scores: Vec<(String, Option<f64>)>,
}

impl Item {
    fn score(&self, name: &str) -> Option<f64> {
        self.scores.iter().find(|(known, _)| known == name).and_then(|(_, score)| *score)
    }

    /// The name of the items that it is resampled with.
    fn group(&self) -> &str {
        let entry = format!(", {QUESTIONS} ");
        let exploded = self.id.rsplit_once(&entry).filter(|(_, number)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        let sample = exploded.map_or(self.id.as_str(), |(sample, _)| sample);
        self.group.as_deref().unwrap_or(sample)
    }
}

/// What a directory of results says.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The directory.
    pub name: String,
    /// What was measured.
    pub task: String,
    /// The data set.
    pub dataset: String,
    /// Every item.
    pub items: Vec<Item>,
}

impl Evaluation {
    /// Reads `results.json` and `samples.jsonl` in `dir`.
    ///
    /// # Errors
    /// Those of the files, with the line that is at fault.
    pub fn read(dir: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Results {
            task: String,
            dataset: String,
        }
        if dir.is_dir() && !dir.join("results.json").exists() {
            let message = "holds no results.json; name the --out directory of an evaluation";
            return Err(Error::file(dir, message));
        }
        let results: Results = read_json(&dir.join("results.json"))?;
        let path = dir.join("samples.jsonl");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let items = lines.map(|(number, line)| {
            let broken = |e| Error::file(&path, format!("line {number}: {e}"));
            serde_json::from_str(line).map_err(broken)
        });
        Ok(Self {
            name: dir.display().to_string(),
            task: results.task,
            dataset: results.dataset,
            items: items.collect::<Result<_>>()?,
        })
    }
}

/// How two evaluations differ in one score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreDifference {
    /// The score; of one type only, `SCORE/TYPE`.
    pub name: String,
    /// Pairs that both have it.
    pub n: usize,
    /// What was resampled: groups of pairs.
    pub groups: usize,
    /// The mean of A over the pairs.
    pub mean_a: f64,
    /// The mean of B over the pairs.
    pub mean_b: f64,
    /// B less A.
    pub difference: f64,
    /// The 95 % interval of the difference; none of fewer than two groups.
    pub interval: Option<[f64; 2]>,
    /// The two-sided p-value of no difference; none of fewer than two groups.
    pub p_value: Option<f64>,
    /// Whether less is better, as of losses.
    pub lower_is_better: bool,
    /// Pairs in which B is better.
    pub wins: usize,
    /// Pairs that are equal.
    pub ties: usize,
    /// Pairs in which B is worse.
    pub losses: usize,
    /// Pairs of which only one has the score.
    pub unpaired: usize,
}

/// Two evaluations side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What was measured.
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
    /// How intervals and p-values were found.
    pub resampling: Resampling,
    /// Every score over all pairs, then by type where there are several.
    pub scores: Vec<ScoreDifference>,
}

/// Pairs the items of `a` and `b` by `doc_id` and compares every score.
///
/// # Errors
/// When task or data set differ, the items of a pair do (the first is named), or there is no pair.
pub fn compare(a: &Evaluation, b: &Evaluation, resampling: Resampling) -> Result<Comparison> {
    let differ = |what: &str, a_is: &dyn std::fmt::Display, b_is: &dyn std::fmt::Display| {
        Err(Error::invalid(format!(
            "{} and {} are no pair: {what} is {a_is} in the first and {b_is} in the second",
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
        let message = "are no pair: no doc_id is in both";
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

/// Items by `doc_id` and by which of the items with this `doc_id` they are.
fn keyed(items: &[Item]) -> Vec<((u64, usize), &Item)> {
    let mut seen: HashMap<u64, usize> = HashMap::new();
    let key = |item: &Item| {
        let count = seen.entry(item.doc_id).or_default();
        *count += 1;
        (item.doc_id, *count - 1)
    };
    items.iter().map(key).zip(items).collect()
}

/// The first field in which two items differ that should be one, and its values.
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

/// `same_set`: both evaluations are of the same items.
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

/// Compares the score `name` over `pairs`; `title` is what the result is called.
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

/// What the columns of [`Comparison::table`] are called.
pub const COLUMNS: [&str; 8] =
    ["score", "N", "A", "B", "B - A", "95 % interval", "p", "win/tie/loss"];

impl Comparison {
    /// A row of words for every score, under [`COLUMNS`].
    pub fn table(&self) -> Vec<[String; 8]> {
        let row = |score: &ScoreDifference| {
            let interval = score.interval.map(|[low, high]| format!("[{low:+.4}, {high:+.4}]"));
            [
                score.name.clone(),
                score.n.to_string(),
                format!("{:.4}", score.mean_a),
                format!("{:.4}", score.mean_b),
                format!("{:+.4}", score.difference),
                interval.unwrap_or_default(),
                score.p_value.map(|p| format!("{p:.4}")).unwrap_or_default(),
                format!("{}/{}/{}", score.wins, score.ties, score.losses),
            ]
        };
        self.scores.iter().map(row).collect()
    }

    /// What was paired, how, and what the numbers are, in sentences.
    pub fn notes(&self) -> Vec<String> {
        let Resampling { resamples, seed } = self.resampling;
        let mut notes = vec![format!(
            "{} items in both, {} only in A, {} only in B",
            self.paired, self.only_in_a, self.only_in_b
        )];
        let unpaired = self.scores.iter().filter(|score| score.unpaired > 0);
        notes.extend(unpaired.map(|score| {
            format!("{}: {} pairs have it on one side only", score.name, score.unpaired)
        }));
        let grouped = self.scores.iter().find(|score| score.groups < score.n);
        notes
            .extend(grouped.map(|s| format!("{} items are resampled in {} groups", s.n, s.groups)));
        notes.push(format!(
            "paired bootstrap, {resamples} resamples, seed {seed}; p is two-sided and not corrected \
             for the number of rows"
        ));
        notes
    }

    /// Writes `compare.json` and `compare.md` into `dir`, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] with the file that could not be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("names and numbers are valid JSON");
        write_atomic(&dir.join("compare.json"), (json + "\n").as_bytes())?;
        write_atomic(&dir.join("compare.md"), self.markdown().as_bytes())
    }

    fn markdown(&self) -> String {
        let row = |cells: &[String]| {
            let cells = cells.iter().map(|cell| cell.replace('|', "\\|"));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = format!(
            "# {} on {}\n\nA: `{}`  \nB: `{}`\n\n",
            self.task, self.dataset, self.a, self.b
        );
        text += &row(&COLUMNS.map(str::to_owned));
        text += &row(&[":--", "--:", "--:", "--:", "--:", ":-:", "--:", "--:"].map(str::to_owned));
        self.table().iter().for_each(|cells| text += &row(cells));
        let notes = self.notes().into_iter().map(|note| format!("- {note}\n"));
        text + "\n" + &notes.collect::<String>()
    }
}

/// An object of numbers with its keys in the file's order.
fn in_order<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<(String, Option<f64>)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, Option<f64>)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of numbers")
        }

        fn visit_map<M: MapAccess<'de>>(
            self,
            mut map: M,
        ) -> std::result::Result<Self::Value, M::Error> {
            let mut pairs = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                pairs.push((name, value.as_f64()));
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}
