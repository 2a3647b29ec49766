//! `calumma chat`: a conversation with a checkpoint, line by line.

mod command;
mod input;
mod printer;
mod saved;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use calumma::generate::GenerationConfig;
use calumma::pipeline::{Chat, Question};
use calumma::tokenize::Segment;
use calumma::{Error, Result};
use clap::Args;
use image::RgbImage;
use serde_json::json;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use self::command::{HELP, Line};
use self::input::{Entry, Input};
use self::printer::{Place, Printer};
use super::images;
use super::sampling::{Mixed, SamplingArgs, end_name};
use super::session::{STDOUT, Session, name, print_error};
use super::terminal::{Screen, Show};

/// Arguments of `chat`.
#[derive(Args)]
pub struct ChatArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Directory for the images that the model makes; nothing in it is overwritten
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// How images are shown in the terminal
    #[arg(long, value_enum, default_value_t = Show::Auto)]
    show: Show,
    /// Do not store conversation, seed and settings in the PNG files
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    sampling: SamplingArgs<Mixed>,
}

/// Reads lines until the input ends: turns, and commands after a slash.
///
/// # Errors
/// Those of checkpoint and output; without a terminal also those of the lines.
pub fn run(args: &ChatArgs, session: &Session) -> Result<()> {
    let pipeline = args.sampling.open(&args.checkpoint, session)?;
    let config = args.sampling.config(&pipeline, session);
    let mut input = Input::open(!session.json())?;
    let interactive = input.is_interactive();
    let stop = Arc::new(AtomicBool::new(false));
    if interactive {
        on_interrupt(&stop)?;
        session.note("/help lists the commands, Ctrl-D ends");
    }
    let screen = Screen::new(args.show, !session.json() && std::io::stdout().is_terminal());
    let place = Place {
        out: &args.out,
        metadata: !args.no_metadata,
        session,
        pipeline: &pipeline,
        screen,
        stop,
    };
    let chat = pipeline.chat(args.system.clone());
    let mut talk = Talk { place, chat, config, images: Vec::new(), draw: false };
    loop {
        let line = match input.next(&talk.prompt())? {
            Entry::Line(line) => line,
            Entry::Interrupt => {
                session.note("Ctrl-D or /quit ends");
                continue;
            }
            Entry::End => break,
        };
        match Line::parse(&line).and_then(|line| talk.take(line)) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(error) if interactive && !is_output(&error) => print_error(&error),
            Err(error) => return Err(error),
        }
    }
    if !talk.images.is_empty() || talk.draw {
        session.note("what was attached is unused, because no turn followed");
    }
    Ok(())
}

/// Sets `stop` at an interrupt from the keyboard; if it is set already, the program ends.
fn on_interrupt(stop: &Arc<AtomicBool>) -> Result<()> {
    flag::register_conditional_default(SIGINT, stop.clone())
        .and_then(|_| flag::register(SIGINT, stop.clone()))
        .map(drop)
        .map_err(Error::io(Path::new("signal handler")))
}

/// Whether standard output cannot be written, so that nothing can be said.
fn is_output(error: &Error) -> bool {
    matches!(error, Error::Io { path, .. } if path.as_os_str() == STDOUT)
}

/// A conversation in progress.
struct Talk<'a> {
    place: Place<'a>,
    chat: Chat<'a>,
    /// The settings of the next answer.
    config: GenerationConfig,
    /// Attached to the next turn, with their paths.
    images: Vec<(PathBuf, RgbImage)>,
    /// Whether the next turn is to be drawn.
    draw: bool,
}

impl Talk<'_> {
    /// What a terminal shows before a line.
    fn prompt(&self) -> String {
        let images = match self.images.len() {
            0 => String::new(),
            1 => "[image] ".to_owned(),
            count => format!("[{count} images] "),
        };
        format!("{}{images}> ", if self.draw { "[draw] " } else { "" })
    }

    /// Does what a line says; a break ends the conversation.
    fn take(&mut self, line: Line) -> Result<ControlFlow<()>> {
        match line {
            Line::Say(text) if text.is_empty() && (self.images.is_empty() || self.draw) => {}
            Line::Say(text) => self.turn(text, self.draw)?,
            Line::Draw(Some(text)) => self.turn(text, true)?,
            Line::Draw(None) => {
                self.place.pipeline.drawing_vq()?;
                self.draw = true;
            }
            Line::Image(path) => {
                self.place.pipeline.vq()?;
                let image = images::open(&path)?;
                self.place.show(&image)?;
                self.images.push((path, image));
            }
            Line::Save(path) => self.save(&path)?,
            Line::Undo => self.undo(),
            Line::Clear => {
                self.chat.clear();
                self.detach();
            }
            Line::Seed(seed) => self.config.seed = seed,
            Line::Help => self.place.session.line(HELP)?,
            Line::Quit => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn detach(&mut self) {
        self.images.clear();
        self.draw = false;
    }

    fn undo(&mut self) {
        let note = if !self.images.is_empty() || self.draw {
            self.detach();
            "what was attached is taken back"
        } else if self.chat.undo() {
            "the last turn is taken back"
        } else {
            "there is no turn to take back"
        };
        self.place.session.note(note);
    }

    fn save(&self, path: &Path) -> Result<()> {
        let session = self.place.session;
        let files = saved::save(&self.chat, path)?;
        let (turns, images) = (self.chat.exchanges().len(), files.len());
        session.line(format_args!("{}: turns {turns}, images {images}", path.display()))?;
        let files: Vec<String> = files.iter().map(|file| name(file)).collect();
        session.object(&json!({ "saved": name(path), "turns": turns, "images": files }))
    }

    /// Asks `text` with the attached images and prints the answer. After an error all is as before.
    fn turn(&mut self, text: String, draw: bool) -> Result<()> {
        let images = self.images.iter().map(|(_, image)| image.clone()).collect();
        let question = Question { text: text.clone(), images, draw, ..Question::default() };
        self.place.stop.store(false, Ordering::Relaxed);
        let files: Vec<String> = self.images.iter().map(|(path, _)| name(path)).collect();
        let context = json!({
            "messages": saved::messages(&self.chat, |_| Ok(json!({ "type": "image" })))?,
            "dropped": self.chat.dropped(),
            "images": files,
            "draw": draw,
        });
        let mut printer = Printer::new(&self.place, &text, context, &self.config);
        let reply = self.chat.ask(question, &self.config, |event| printer.event(event))?;
        let segments = printer.finish(&reply)?;
        if reply.is_withdrawn() {
            return Ok(());
        }
        let said: String = reply.answer.iter().filter_map(text_of).collect();
        self.place.session.object(&json!({
            "turn": self.chat.exchanges().len(),
            "text": text,
            "images": files,
            "draw": draw,
            "seed": self.config.seed,
            "segments": segments,
            "answer": said.trim(),
            "end": end_name(reply.end),
            "dropped": reply.dropped,
        }))?;
        self.config.seed = self.config.seed.wrapping_add(1);
        self.detach();
        Ok(())
    }
}

fn text_of(segment: &Segment) -> Option<&str> {
    match segment {
        Segment::Text(text) => Some(text),
        Segment::Image(_) => None,
    }
}
