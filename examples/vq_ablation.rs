//! Trains image tokenizers with every variant in `recipes/ablation/ways.toml`, at equal size, data and steps,
//! and writes a table (`table.md`) and curves (`curves.svg`) of the results.
//!
//! ```text
//! cargo run --release --example vq_ablation -- [RECIPES [--set KEY=VALUE]...]
//! ```
//!
//! The runs are in `runs/ablation`; a stopped ablation continues where it stopped. With the shipped
//! recipes it takes about half an hour on 2 CPU cores and needs no data.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use calumma::device::{DeviceSpec, Precision};
use calumma::recipe::read_recipe;
use calumma::report::Reporter;
use calumma::train::{ImageTask, StopFlag, VqRecipe, run};
use serde_json::Value;

/// Columns of the table: the name in `metrics.jsonl`, the heading and the digits after the point.
const MEASURES: [(&str, &str, usize); 5] = [
    ("psnr", "PSNR, dB", 2),
    ("ssim", "SSIM", 3),
    ("ms_ssim", "MS-SSIM", 3),
    ("codes_used", "codes used", 3),
    ("perplexity", "perplexity", 0),
];

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    let recipes = match args.peek() {
        Some(first) if first != "--set" => PathBuf::from(args.next().expect("it was peeked at")),
        _ => "recipes/ablation".into(),
    };
    let common: Vec<String> = args.filter(|arg| arg != "--set").collect();
    let text = std::fs::read_to_string(recipes.join("ways.toml")).context("ways.toml")?;
    let variants: BTreeMap<String, Vec<String>> = toml::from_str(&text).context("ways.toml")?;
    let mut found = Vec::new();
    let mut runs = PathBuf::new();
    for (name, changes) in variants {
        let mut overrides = vec![format!("run.name=\"{name}\"")];
        overrides.extend(changes.into_iter().chain(common.iter().cloned()));
        let recipe: VqRecipe = read_recipe(&recipes.join("base.toml"), &overrides)?;
        runs = recipe.run.directory.clone();
        let start = Instant::now();
        let mut task = ImageTask::new(recipe.clone(), &DeviceSpec::Cpu.open()?, Precision::F32)?;
        run(&mut task, &recipe.plan(), Reporter::silent(), &StopFlag::default())?;
        let curve = curve(&recipe.run.path().join("metrics.jsonl"))?;
        let (_, last) = curve.last().context("no evaluation was logged")?;
        let psnr = last.get("psnr").copied().unwrap_or_default();
        println!(
            "{name}: {psnr:.2} dB after {} steps, {:.0} s",
            recipe.run.steps,
            start.elapsed().as_secs_f64()
        );
        found.push((name, curve));
    }
    for (name, content) in [("table.md", table(&found)), ("curves.svg", curves(&found))] {
        let path = runs.join(name);
        std::fs::write(&path, content)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Evaluations of a run, by step.
type Curve = Vec<(u64, BTreeMap<String, f64>)>;

/// The evaluations in the `metrics.jsonl` at `path`.
fn curve(path: &Path) -> anyhow::Result<Curve> {
    let mut curve = Curve::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let Value::Object(line) = serde_json::from_str(line)? else { continue };
        if line.get("kind").and_then(Value::as_str) == Some("eval") {
            let step = line.get("step").and_then(Value::as_u64).context("a line without a step")?;
            let values =
                line.iter().filter_map(|(key, value)| Some((key.clone(), value.as_f64()?)));
            curve.push((step, values.collect()));
        }
    }
    Ok(curve)
}

/// A Markdown table of the last evaluation of each run.
fn table(found: &[(String, Curve)]) -> String {
    let mut text = String::from("| |");
    let heading = |(_, heading, _): (&str, &str, usize)| format!(" {heading} |");
    text.extend(MEASURES.map(heading));
    text += "\n|---|";
    text.extend(MEASURES.map(|_| "---|"));
    text.push('\n');
    for (name, curve) in found {
        let _ = write!(text, "| {name} |");
        for (key, _, digits) in MEASURES {
            let value = curve.last().and_then(|(_, values)| values.get(key)).copied();
            let _ = write!(text, " {:.digits$} |", value.unwrap_or(f64::NAN));
        }
        text.push('\n');
    }
    text
}

/// An SVG plot of PSNR by step, one line for each run.
fn curves(found: &[(String, Curve)]) -> String {
    const COLOURS: [&str; 10] = [
        "#1b6ca8", "#d1495b", "#2e8b57", "#8a5a00", "#6a4c93", "#0f9ba8", "#c0392b", "#7f8c8d",
        "#e08e0b", "#34495e",
    ];
    let (width, height, left, top) = (640.0, 360.0, 50.0, 20.0);
    let points = || found.iter().flat_map(|(_, curve)| curve);
    let psnr = |values: &BTreeMap<String, f64>| values.get("psnr").copied().unwrap_or(f64::NAN);
    let last = points().map(|(step, _)| *step).max().unwrap_or(1) as f64;
    let highest = points().map(|(_, v)| psnr(v)).fold(f64::MIN, f64::max).ceil();
    let lowest = points().map(|(_, v)| psnr(v)).fold(f64::MAX, f64::min).floor();
    let x = |step: u64| left + width * step as f64 / last;
    let y = |value: f64| top + height * (highest - value) / (highest - lowest).max(1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        left + width + 130.0,
        top + height + 40.0
    );
    let mut value = lowest;
    while value <= highest {
        let at = y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"8\" y=\"{:.1}\">{value:.0} dB</text>",
            left + width,
            at + 4.0
        );
        value += 2.0;
    }
    for (index, (name, curve)) in found.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let line: Vec<String> =
            curve.iter().map(|(step, v)| format!("{:.1},{:.1}", x(*step), y(psnr(v)))).collect();
        let legend = top + 14.0 + 18.0 * index as f64;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{legend}\" fill=\"{colour}\">{name}</text>",
            line.join(" "),
            left + width + 10.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\">steps, to {last}</text>\n</svg>",
        left,
        top + height + 24.0
    );
    svg
}
