//! `calumma demo`: the shipped model draws, captions and answers; the results go on one sheet.

mod tasks;

use std::path::{Path, PathBuf};
use std::time::Instant;

use calumma::data::scenes::detect;
use calumma::pipeline::Pipeline;
use calumma::sheet::{Cell, Layout, Section, Tone, sheet};
use calumma::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use self::tasks::{Drawing, Question, Scene, Tasks};
use super::open::AdapterArgs;
use super::session::{Session, name};
use super::{images, open};

/// The shipped model's directory in the repository.
const SHIPPED: &str = "checkpoints/demo";

/// Arguments of `demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// Checkpoint directory [default: checkpoints/demo in the current directory or a parent of the program]
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// PNG file to write
    #[arg(long, short, value_name = "PATH", default_value = "demo.png")]
    out: PathBuf,
    #[command(flatten)]
    adapters: AdapterArgs,
}

/// The finished tasks, for `--json`.
struct Record<'a> {
    session: &'a Session,
    done: Vec<Value>,
}

impl Record<'_> {
    /// Prints `what` with its duration since `started` and keeps `object`.
    fn add(&mut self, what: &str, started: Instant, mut object: Value) -> Result<()> {
        let seconds = started.elapsed().as_secs_f64();
        object["seconds"] = json!(seconds);
        self.done.push(object);
        self.session.line(format_args!("{what} ({seconds:.1} s)"))
    }
}

/// Runs all tasks and writes the sheet.
///
/// # Errors
/// If there is no checkpoint; those of its files and of the output.
pub fn run(args: &DemoArgs, session: &Session) -> Result<()> {
    let started = Instant::now();
    if args.out.is_dir() {
        return Err(Error::file(&args.out, "is a directory; --out takes the path of a PNG file"));
    }
    let dir = match &args.checkpoint {
        Some(dir) => dir.clone(),
        None => shipped()?,
    };
    let pipeline = open::pipeline(&dir, &args.adapters, session)?;
    let mut record = Record { session, done: Vec::new() };
    let opened = json!({ "task": "open", "checkpoint": name(&dir) });
    record.add(&format!("opened {}", dir.display()), started, opened)?;
    let tasks = Tasks::of(&dir, pipeline.vq()?.resolution())?;
    let sections = [
        draw(&tasks.drawings, &pipeline, &mut record)?,
        caption(&tasks.captionings, &pipeline, &mut record)?,
        ask(&tasks.questions, &pipeline, &mut record)?,
    ];
    images::save(&args.out, &sheet(&sections, &Layout::default()), None)?;
    let seconds = started.elapsed().as_secs_f64();
    session.line(format_args!("wrote {}; {seconds:.1} s in all", args.out.display()))?;
    session.object(&json!({ "done": record.done, "sheet": name(&args.out), "seconds": seconds }))
}

/// The shipped checkpoint, in the current directory or a parent directory of the program.
fn shipped() -> Result<PathBuf> {
    let current = PathBuf::from(SHIPPED);
    let program = std::env::current_exe().ok();
    let above = program.iter().flat_map(|program| program.ancestors()).map(|dir| dir.join(SHIPPED));
    let mut candidates = std::iter::once(current).chain(above);
    candidates.find(|dir| dir.join("config.json").is_file()).ok_or_else(|| {
        Error::file(
            Path::new(SHIPPED),
            "no checkpoint in the current directory or above the program; run in the repository or pass --checkpoint",
        )
    })
}

fn draw(tasks: &[Drawing], pipeline: &Pipeline, record: &mut Record<'_>) -> Result<Section> {
    let mut config = pipeline.generation().clone();
    config.seed = record.session.seed().unwrap_or(config.seed);
    let mut cells = Vec::new();
    for task in tasks {
        let started = Instant::now();
        let mut images = pipeline.draw_batch(&[&task.prompt], &config)?;
        let image = images.remove(0);
        let right = task.truth.as_ref().map(|caption| caption.satisfied_exactly(&detect(&image)));
        let verdict = match right {
            Some(true) => ": the detector sees what was asked for",
            Some(false) => ": the detector sees something else",
            None => "",
        };
        let object = json!({
            "task": "draw",
            "prompt": task.prompt,
            "seed": config.seed,
            "detector_agrees": right,
        });
        record.add(&format!("drew \"{}\"{verdict}", task.prompt), started, object)?;
        let tone = if right == Some(true) { Tone::Right } else { Tone::Plain };
        cells.push(Cell::new(image).note(tone, &task.prompt));
        config.seed = config.seed.wrapping_add(1);
    }
    Ok(Section { heading: "Drawn from a sentence".to_owned(), cells })
}

fn caption(tasks: &[Scene], pipeline: &Pipeline, record: &mut Record<'_>) -> Result<Section> {
    let mut cells = Vec::new();
    for Scene { image, truth } in tasks {
        let started = Instant::now();
        let caption = pipeline.caption(image)?;
        let object = json!({ "task": "caption", "caption": caption, "truth": truth });
        record.add(&format!("captioned \"{caption}\", made as \"{truth}\""), started, object)?;
        let cell = Cell::new(image.clone()).note(Tone::Plain, caption);
        cells.push(cell.note(Tone::Muted, format!("made as: {truth}")));
    }
    Ok(Section { heading: "Captioned".to_owned(), cells })
}

fn ask(tasks: &[Question], pipeline: &Pipeline, record: &mut Record<'_>) -> Result<Section> {
    let mut cells = Vec::new();
    for Question { image, question, truth } in tasks {
        let started = Instant::now();
        let answer = pipeline.ask(image, question)?;
        let (tone, verdict) = match answer == *truth {
            true => (Tone::Right, "right".to_owned()),
            false => (Tone::Wrong, format!("wrong: {truth}")),
        };
        let object = json!({
            "task": "ask",
            "question": question,
            "answer": answer,
            "truth": truth,
            "right": answer == *truth,
        });
        record.add(&format!("asked \"{question}\": {answer}, {verdict}"), started, object)?;
        let cell = Cell::new(image.clone()).note(Tone::Muted, question);
        cells.push(cell.note(tone, format!("{answer} ({verdict})")));
    }
    Ok(Section { heading: "Asked".to_owned(), cells })
}
