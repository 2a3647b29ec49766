//! Numbers and examples from the matches.

use std::collections::{BTreeMap, BTreeSet};

use image::RgbImage;

use super::config::ContaminationConfig;
use super::index::{self, Hits, Index, Position};
use super::outcome::{
    AffectedItem, ColumnOverlap, Contamination, Contents, ImageTwin, Overlap, TextTwin, Twin,
};
use super::texts::texts;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};

/// Number of examples of each kind.
const EXAMPLES: usize = 16;

/// A finished search.
pub(super) struct Finished<'a> {
    pub evaluation: &'a dyn Dataset,
    pub train: &'a [Box<dyn Dataset>],
    pub config: &'a ContaminationConfig,
    pub index: &'a Index,
    pub hits: &'a Hits,
}

/// The n-grams of a text that occur in training data.
#[derive(Clone, Copy, Default)]
struct Grams {
    all: u32,
    matching: u32,
    /// The position of the majority of the matches, if there is one (Boyer & Moore's vote).
    position: Option<Position>,
    votes: u32,
}

impl Grams {
    fn add(&mut self, occurrence: Option<Position>) {
        self.all += 1;
        let Some(position) = occurrence else { return };
        self.matching += 1;
        match self.position {
            Some(known) if known == position => self.votes += 1,
            Some(_) if self.votes > 0 => self.votes -= 1,
            _ => (self.position, self.votes) = (Some(position), 1),
        }
    }

    fn share(self) -> f64 {
        f64::from(self.matching) / f64::from(self.all.max(1))
    }
}

impl Finished<'_> {
    /// The result of the search.
    pub fn outcome(&self, train: &[index::Contents]) -> Result<Contamination> {
        let grams = self.grams();
        let affected = self.affected(&grams);
        let items = self.evaluation.len() - self.index.contents.bad.len();
        let count = |has: &dyn Fn(&AffectedItem) -> bool| {
            overlap(affected.values().filter(|item| has(item)).count(), items)
        };
        let (images, sheet) = self.image_examples()?;
        let sets = self.train.iter().zip(train);
        Ok(Contamination {
            evaluation: contents(self.evaluation, &self.index.contents),
            train: sets.map(|(set, found)| contents(set.as_ref(), found)).collect(),
            config: self.config.clone(),
            items,
            exact_images: count(&|item| item.exact_image.is_some()),
            near_images: count(&|item| item.near_image.is_some()),
            exact_texts: count(&|item| item.exact_text.is_some()),
            ngrams: count(&|item| item.ngram_text.is_some()),
            any: count(&|_| true),
            columns: self.columns(&grams),
            images,
            texts: self.text_examples(&grams)?,
            affected: affected.into_values().collect(),
            sheet,
        })
    }

    /// The matching n-grams of each text.
    fn grams(&self) -> Vec<Grams> {
        let mut grams = vec![Grams::default(); self.index.texts.len()];
        for (key, occurrence) in self.hits.grams.iter().enumerate() {
            for &text in self.index.grams.owners(key) {
                grams[text as usize].add(*occurrence);
            }
        }
        grams
    }

    /// The training sample at `position`.
    fn twin(&self, position: Position) -> Twin {
        let dataset = self.train[usize::from(position.set)].name().to_owned();
        Twin { dataset, index: position.sample as usize }
    }

    /// The items with any overlap, by index.
    fn affected(&self, grams: &[Grams]) -> BTreeMap<u32, AffectedItem> {
        let mut affected: BTreeMap<u32, AffectedItem> = BTreeMap::new();
        fn at(affected: &mut BTreeMap<u32, AffectedItem>, sample: u32) -> &mut AffectedItem {
            let doc_id = sample as usize;
            affected.entry(sample).or_insert(AffectedItem { doc_id, ..AffectedItem::default() })
        }
        for (exact, image) in self.exact_images() {
            let item = at(&mut affected, self.index.images[image].sample);
            item.exact_image.get_or_insert_with(|| self.twin(exact));
        }
        for (image, near) in self.hits.near.iter().enumerate() {
            let Some((distance, position)) = *near else { continue };
            let item = at(&mut affected, self.index.images[image].sample);
            // Items with an equal training image are not counted as near.
            if item.exact_image.is_none() && item.distance.is_none_or(|known| distance < known) {
                (item.near_image, item.distance) = (Some(self.twin(position)), Some(distance));
            }
        }
        for (text, grams) in self.index.texts.iter().zip(grams) {
            let exact = self.hits.whole_texts[text.whole as usize];
            if exact.is_none() && grams.matching == 0 {
                continue;
            }
            let item = at(&mut affected, text.position.sample);
            if let Some(exact) = exact {
                item.exact_text.get_or_insert_with(|| self.twin(exact));
            }
            if let Some(position) =
                grams.position.filter(|_| item.ngram_share < Some(grams.share()))
            {
                (item.ngram_text, item.ngram_share) =
                    (Some(self.twin(position)), Some(grams.share()));
            }
        }
        affected
    }

    /// The equal pairs of a training image and an evaluation image.
    fn exact_images(&self) -> impl Iterator<Item = (Position, usize)> {
        let keys = self.hits.exact.iter().enumerate();
        keys.filter_map(|(key, position)| Some((key, (*position)?))).flat_map(|(key, position)| {
            self.index.digests.owners(key).iter().map(move |image| (position, *image as usize))
        })
    }

    /// The overlap of each column.
    fn columns(&self, grams: &[Grams]) -> Vec<ColumnOverlap> {
        let mut found = vec![[const { BTreeSet::new() }; 3]; self.index.columns.len()];
        for (text, grams) in self.index.texts.iter().zip(grams) {
            let sample = text.position.sample;
            let [all, exact, shared] = &mut found[text.column as usize];
            all.insert(sample);
            if self.hits.whole_texts[text.whole as usize].is_some() {
                exact.insert(sample);
            }
            if grams.matching > 0 {
                shared.insert(sample);
            }
        }
        let columns = self.index.columns.iter().zip(found);
        columns
            .map(|(column, [all, exact, shared])| ColumnOverlap {
                column: column.clone(),
                items: all.len(),
                exact_texts: overlap(exact.len(), all.len()),
                ngrams: overlap(shared.len(), all.len()),
            })
            .collect()
    }

    /// The closest pairs of images, and their sheet.
    fn image_examples(&self) -> Result<(Vec<ImageTwin>, Vec<Cell>)> {
        let exact = self.exact_images().map(|(position, image)| (false, 0, image, position));
        let near = self.hits.near.iter().enumerate();
        let near = near.filter_map(|(image, near)| {
            let (distance, position) = (*near)?;
            Some((true, distance, image, position))
        });
        let mut closest: Vec<_> = exact.chain(near).collect();
        closest.sort_by_key(|(near, distance, image, _)| (*near, *distance, *image));
        let (mut seen, mut examples, mut cells) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (near, distance, image, position) in closest {
            if examples.len() == EXAMPLES {
                break;
            }
            if !seen.insert(self.index.keys[image]) {
                continue;
            }
            let here = self.index.images[image];
            let (id, image) = image_at(self.evaluation, here)?;
            let (twin_id, twin_image) =
                image_at(self.train[usize::from(position.set)].as_ref(), position)?;
            let apart = if near { format!("distance {distance}") } else { "equal".to_owned() };
            cells.push(Cell::new(image).note(Tone::Plain, "evaluation").note(Tone::Muted, &id));
            let twin = Cell::new(twin_image).note(Tone::Wrong, format!("training: {apart}"));
            cells.push(twin.note(Tone::Muted, &twin_id));
            let (doc_id, twin) = (here.sample as usize, self.twin(position));
            examples.push(ImageTwin { doc_id, id, twin, twin_id, exact: !near, distance });
        }
        Ok((examples, cells))
    }

    /// The closest pairs of texts.
    fn text_examples(&self, grams: &[Grams]) -> Result<Vec<TextTwin>> {
        let mut closest: Vec<_> = self.index.texts.iter().zip(grams).collect();
        let exact = |whole: u32| self.hits.whole_texts[whole as usize];
        closest.retain(|(text, grams)| exact(text.whole).is_some() || grams.matching > 0);
        closest.sort_by(|(a, a_grams), (b, b_grams)| {
            let rank = |whole, grams: &Grams| (exact(whole).is_some(), grams.share(), grams.all);
            let (a, b) = (rank(a.whole, a_grams), rank(b.whole, b_grams));
            b.partial_cmp(&a).expect("shares are numbers")
        });
        let mut seen = BTreeSet::new();
        closest.retain(|(text, _)| seen.insert(text.whole));
        closest.truncate(EXAMPLES);
        let example = |(text, grams): (&index::Text, &Grams)| {
            let position =
                exact(text.whole).or(grams.position).expect("only matching texts are kept");
            let here = self.text_at(self.evaluation, text.position)?;
            let there = self.text_at(self.train[usize::from(position.set)].as_ref(), position)?;
            Ok(TextTwin {
                doc_id: text.position.sample as usize,
                id: here.0,
                column: self.index.columns[text.column as usize].clone(),
                text: here.1,
                twin: self.twin(position),
                twin_id: there.0,
                twin_text: there.1,
                exact: exact(text.whole).is_some(),
                ngram_share: grams.share(),
            })
        };
        closest.into_iter().map(example).collect()
    }

    /// The origin and the text at `position`.
    fn text_at(&self, dataset: &dyn Dataset, position: Position) -> Result<(String, String)> {
        let sample = dataset.get(position.sample as usize)?;
        let texts = texts(&sample.fields, self.config.columns.as_deref());
        let text = texts.get(usize::from(position.part)).map(|(_, text)| (*text).to_owned());
        Ok((sample.source, text.unwrap_or_default()))
    }
}

/// The origin and the image at `position`.
fn image_at(dataset: &dyn Dataset, position: Position) -> Result<(String, RgbImage)> {
    let mut sample = dataset.get(position.sample as usize)?;
    let part = usize::from(position.part).min(sample.images.len().saturating_sub(1));
    match sample.images.is_empty() {
        true => Err(Error::invalid(format!("{}: its images are missing", sample.source))),
        false => Ok((sample.source, sample.images.swap_remove(part))),
    }
}

fn overlap(items: usize, of: usize) -> Overlap {
    Overlap { items, share: if of == 0 { 0.0 } else { items as f64 / of as f64 } }
}

fn contents(dataset: &dyn Dataset, found: &index::Contents) -> Contents {
    Contents {
        name: dataset.name().to_owned(),
        samples: dataset.len(),
        images: found.images,
        texts: found.texts,
        bad_samples: found.bad.clone(),
    }
}
