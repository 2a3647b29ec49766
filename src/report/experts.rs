//! What the experts of a run did: heat maps of layers and experts, and a table of measures.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::escape::escape;
use super::scale::{readable, significant};

/// Width of a heat map in pixels, and the height of a row.
const WIDTH: f64 = 900.0;
const ROW: f64 = 18.0;
/// Width of the numbers of layers.
const LEFT: f64 = 40.0;
/// The load over the mean that has the full colour.
const FULL_LOAD: f64 = 2.0;

/// The experts of a sparse layer over some steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerExperts {
    /// The layer's number.
    pub layer: usize,
    /// The tokens of each expert over the mean of the layer.
    pub loads: Vec<f64>,
    /// The share of image codes among the tokens of each expert; `None` without tokens.
    pub image_shares: Vec<Option<f64>>,
    /// Measures of the layer by name.
    pub measures: BTreeMap<String, f64>,
}

impl LayerExperts {
    /// The measures under the tags of TensorBoard.
    pub(super) fn scalars(&self) -> impl Iterator<Item = (String, f64)> {
        let tag = |name: &String| format!("experts/layer_{:02}/{name}", self.layer);
        self.measures.iter().map(move |(name, value)| (tag(name), *value))
    }
}

/// Writes the section of the experts as they were at `step`.
pub(super) fn section(page: &mut String, step: u64, layers: &[LayerExperts]) {
    let _ = writeln!(page, "<section>\n<h2>Experts at step {step}</h2>\n<div class=\"charts\">");
    let load = |load: &f64| (load / FULL_LOAD, format!("{} of the mean load", readable(*load)));
    let share = |share: &Option<f64>| match share {
        Some(share) => (*share, format!("{} image codes", readable(*share))),
        None => (0.0, "no tokens".to_owned()),
    };
    let loads = layers.iter().map(|layer| (layer.layer, layer.loads.iter().map(load).collect()));
    heat_map(page, "tokens of an expert, full colour: twice the mean", loads);
    let shares = layers.iter().map(|layer| (layer.layer, layer.image_shares.iter().map(share)));
    let shares = shares.map(|(layer, cells)| (layer, cells.collect()));
    heat_map(page, "image codes among them, full colour: all", shares);
    page.push_str("</div>\n");
    measures(page, layers);
    page.push_str("</section>\n");
}

/// Draws rows of cells, each with an opacity and a text.
fn heat_map(
    page: &mut String,
    title: &str,
    rows: impl ExactSizeIterator<Item = (usize, Vec<(f64, String)>)>,
) {
    let height = ROW * rows.len() as f64;
    let _ = writeln!(
        page,
        "<figure>\n<figcaption><b>{}</b></figcaption>\n<svg viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for (row, (layer, cells)) in rows.enumerate() {
        let (top, wide) = (row as f64 * ROW, (WIDTH - LEFT) / cells.len().max(1) as f64);
        let _ = writeln!(
            page,
            "<text class=\"y\" x=\"{}\" y=\"{}\">{layer}</text>",
            LEFT - 8.0,
            top + ROW - 5.0
        );
        for (expert, (opacity, text)) in cells.iter().enumerate() {
            let _ = writeln!(
                page,
                "<rect class=\"heat\" x=\"{:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\" \
                 fill-opacity=\"{:.2}\"><title>layer {layer}, expert {expert}: {}</title></rect>",
                LEFT + expert as f64 * wide,
                wide - 1.0,
                ROW - 1.0,
                opacity.clamp(0.0, 1.0),
                escape(text)
            );
        }
    }
    page.push_str("</svg>\n</figure>\n");
}

fn measures(page: &mut String, layers: &[LayerExperts]) {
    let mut names: Vec<&String> = layers.iter().flat_map(|layer| layer.measures.keys()).collect();
    names.sort();
    names.dedup();
    page.push_str("<div class=\"scroll\">\n<table>\n<thead><tr><th>layer</th>");
    for name in &names {
        let _ = write!(page, "<th>{}</th>", escape(&name.replace('_', " ")));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for layer in layers {
        let _ = write!(page, "<tr><th>{}</th>", layer.layer);
        for name in &names {
            let value =
                layer.measures.get(*name).map_or(String::new(), |value| significant(*value));
            let _ = write!(page, "<td>{value}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
}
