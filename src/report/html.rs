//! `report.html`: a page that opens from disk, without scripts or network access.

use std::fmt::Write;

use indicatif::{FormattedDuration, HumanCount};

use super::chart::{Chart, colour};
use super::escape::escape;
use super::experts;
use super::omission::Omission;
use super::record::{Evaluation, RunRecord, Series};
use super::sample::SampleText;
use super::scale::significant;

/// Newest evaluations whose samples are shown unfolded.
const UNFOLDED: usize = 3;

/// The HTML page of `record`. Images are linked relative to the run's directory; everything else is
/// inline.
///
/// ```
/// use calumma::report::{RunRecord, html};
///
/// let record = RunRecord { name: "first <try>".into(), ..RunRecord::default() };
/// assert!(html::render(&record).contains("<h1>first &lt;try&gt;</h1>"));
/// ```
pub fn render(record: &RunRecord) -> String {
    let mut page = String::new();
    head(&mut page, record);
    environment(&mut page, record);
    curves(&mut page, record);
    if let Some((step, layers)) = &record.experts {
        experts::section(&mut page, *step, layers);
    }
    table(&mut page, record);
    left_out(&mut page, record);
    events(&mut page, record);
    evaluations(&mut page, record);
    page + "</main>\n</body>\n</html>\n"
}

/// A metric's name for reading, escaped.
fn words(name: &str) -> String {
    escape(&name.replace('_', " "))
}

fn duration(seconds: f64) -> String {
    let seconds = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    FormattedDuration(seconds).to_string()
}

/// Writes the title, the progress of the run and the metrics of its newest evaluation.
fn head(page: &mut String, record: &RunRecord) {
    let name = escape(&record.name);
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{name}</title>\n\
         <style>\n{}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{name}</h1>\n\
         <p>step {} after {}</p>\n</header>\n",
        include_str!("report.css"),
        HumanCount(record.step),
        duration(record.elapsed_s)
    );
    let shown = ["eval", "train"].map(|kind| (kind, record.newest(kind).collect::<Vec<_>>()));
    let Some((kind, metrics)) = shown.into_iter().find(|(_, metrics)| !metrics.is_empty()) else {
        return;
    };
    page.push_str("<dl class=\"tiles\">\n");
    for (name, value) in metrics {
        let _ = writeln!(
            page,
            "<div><dt>{kind} {}</dt><dd>{}</dd></div>",
            words(name),
            significant(value)
        );
    }
    page.push_str("</dl>\n");
}

fn environment(page: &mut String, record: &RunRecord) {
    if !record.environment.is_empty() {
        page.push_str("<section>\n<h2>Environment</h2>\n<dl class=\"pairs\">\n");
        for (name, value) in &record.environment {
            let (name, value) = (words(name), escape(value));
            let _ = writeln!(page, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
        page.push_str("</dl>\n</section>\n");
    }
    if let Some(recipe) = &record.recipe {
        let recipe = escape(recipe);
        let _ = writeln!(
            page,
            "<details class=\"recipe\"><summary>Recipe</summary><pre>{recipe}</pre></details>"
        );
    }
}

/// Writes a chart per metric: the loss, then metrics of evaluations, then the others; speed and memory last.
fn curves(page: &mut String, record: &RunRecord) {
    if record.series.is_empty() {
        return;
    }
    let mut charts: Vec<&[Series]> = record.series.chunk_by(|a, b| a.name == b.name).collect();
    charts.sort_by_key(|chart| rank(chart));
    page.push_str("<section>\n<h2>Curves</h2>\n<div class=\"charts\">\n");
    for series in charts {
        let chart = Chart { series, events: &record.events, last_step: record.step };
        let _ = write!(page, "<figure>\n<figcaption><b>{}</b>", escape(&chart.title()));
        for series in series {
            let last = series.points.last().map_or(f64::NAN, |(_, value)| *value);
            let _ = write!(
                page,
                " <span class=\"key {}\">{}</span> {}",
                colour(&series.kind),
                escape(&series.kind),
                significant(chart.in_unit(last))
            );
        }
        let _ = writeln!(page, "</figcaption>\n{}</figure>", chart.svg());
    }
    page.push_str("</div>\n</section>\n");
}

fn rank(chart: &[Series]) -> u8 {
    let name = chart.first().map_or("", |series| series.name.as_str());
    match name {
        "loss" => 0,
        _ if name.ends_with("_bytes") => 5,
        _ if name.ends_with("_per_s") => 4,
        "lr" | "grad_norm" => 3,
        _ if chart.iter().any(|series| series.kind == "eval") => 1,
        _ => 2,
    }
}

/// Writes a table with a row of metrics per evaluation.
fn table(page: &mut String, record: &RunRecord) {
    let rows: Vec<&Evaluation> =
        record.evaluations.iter().filter(|evaluation| !evaluation.metrics.is_empty()).collect();
    let mut names: Vec<&String> = rows.iter().flat_map(|row| row.metrics.keys()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Evaluations</h2>\n<div class=\"scroll\">\n<table>\n");
    page.push_str("<thead><tr><th>step</th>");
    names.iter().for_each(|name| page.push_str(&format!("<th>{}</th>", words(name))));
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        let _ = write!(page, "<tr><th>{}</th>", HumanCount(row.step));
        for name in &names {
            let value = row.metrics.get(*name).map_or(String::new(), |value| significant(*value));
            let _ = write!(page, "<td>{value}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n</section>\n");
}

/// Writes a table of what was left out of the data.
fn left_out(page: &mut String, record: &RunRecord) {
    if record.left_out.is_empty() {
        return;
    }
    page.push_str(
        "<section>\n<h2>Left out</h2>\n<div class=\"scroll\">\n<table class=\"texts\">\n<thead><tr>\
         <th>source</th><th>left out</th><th>the first</th></tr></thead>\n<tbody>\n",
    );
    for Omission { source, text, examples, .. } in &record.left_out {
        let examples: Vec<String> = examples.iter().map(|example| escape(example)).collect();
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(source),
            escape(text),
            examples.join("<br>")
        );
    }
    page.push_str("</tbody>\n</table>\n</div>\n</section>\n");
}

fn events(page: &mut String, record: &RunRecord) {
    if record.events.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Events</h2>\n<ol class=\"events\">\n");
    for event in &record.events {
        let _ = writeln!(
            page,
            "<li><span>step {}, {}</span> <b>{}</b> {}</li>",
            HumanCount(event.step),
            duration(event.elapsed_s),
            escape(&event.kind),
            escape(&event.text)
        );
    }
    page.push_str("</ol>\n</section>\n");
}

/// Writes the images and texts of the evaluations.
fn evaluations(page: &mut String, record: &RunRecord) {
    let has_samples = |e: &&Evaluation| e.image.is_some() || !e.samples.is_empty();
    let mut shown = record.evaluations.iter().filter(has_samples).enumerate().peekable();
    if shown.peek().is_none() {
        return;
    }
    page.push_str("<section>\n<h2>Samples</h2>\n");
    for (index, evaluation) in shown {
        let open = if index < UNFOLDED { " open" } else { "" };
        let step = HumanCount(evaluation.step);
        let _ = writeln!(page, "<details{open}><summary>step {step}</summary>");
        if let Some(path) = evaluation.image.as_deref().map(escape) {
            let _ = writeln!(
                page,
                "<a href=\"{path}\"><img loading=\"lazy\" src=\"{path}\" \
                 alt=\"images at step {step}\"></a>"
            );
        }
        if !evaluation.samples.is_empty() {
            texts(page, &evaluation.samples);
        }
        page.push_str("</details>\n");
    }
    page.push_str("</section>\n");
}

fn texts(page: &mut String, samples: &[SampleText]) {
    page.push_str("<div class=\"scroll\">\n<table class=\"texts\">\n<thead><tr>");
    for heading in ["source", "prompt", "target", "generated"] {
        let _ = write!(page, "<th>{heading}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for SampleText { source, prompt, target, generated } in samples {
        let class = if target == generated { " class=\"same\"" } else { "" };
        page.push_str("<tr>");
        for text in [source, prompt, target] {
            let _ = write!(page, "<td>{}</td>", escape(text));
        }
        let _ = writeln!(page, "<td{class}>{}</td></tr>", escape(generated));
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
}
