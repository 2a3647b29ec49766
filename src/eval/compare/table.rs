//! A comparison as a table, as sentences and as files.

use std::path::Path;

use super::differences::{Comparison, ScoreDifference};
use crate::error::Result;
use crate::eval::bootstrap::Resampling;
use crate::files::write_atomic;

/// Headings of the columns of [`Comparison::table`].
pub const COLUMNS: [&str; 8] =
    ["score", "N", "A", "B", "B - A", "95 % interval", "p", "win/tie/loss"];

impl Comparison {
    /// One row of text for every score, under [`COLUMNS`].
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

    /// Sentences about the pairs and the method.
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

    /// Writes `compare.json` and `compare.md` into `dir`, which is created if needed.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) or [`Error::File`](crate::Error::File) with the file that
    /// could not be written.
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
