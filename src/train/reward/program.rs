//! A reward that any program computes.
//!
//! The program runs beside the training and answers lines with lines; [`ProgramConfig`] has the protocol.
//! Whatever it does wrong is one [`FailureKind`], counted: the answers before it count, the program and all
//! that it has started are killed, and the next batch starts it again or the run stops.

use std::time::{Duration, Instant};

use super::answers::{Answers, surplus_line};
use super::config::{OnFailure, ProgramConfig};
use super::failures::{FailureKind, Failures, Fault};
use super::process::{MAX_LINE, Output, Process};
use super::requests::Requests;
use super::rollout::{Reward, Rollout};
use crate::error::{Error, Result};

/// How often a silent program is checked for its end.
const POLL: Duration = Duration::from_millis(20);

/// How long after the end of a program its last output may take.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Bytes of stderr in one batch that are counted as [`FailureKind::Noisy`].
const NOISE: u64 = 1 << 20;

/// The reward that a program gives.
pub struct Program {
    name: String,
    config: ProgramConfig,
    process: Option<Process>,
    /// Whether the process has been given a batch. What it does before is part of its first batch.
    was_asked: bool,
    failures: Failures,
    /// The last failure in words.
    last_failure: String,
    /// Ids are never used again, so that late answers are noticed.
    next_id: u64,
    /// Starts since the last batch without a failure.
    restarts: u32,
}

impl Program {
    /// Starts the program of the reward called `name`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it cannot be started.
    pub fn open(name: &str, config: &ProgramConfig) -> Result<Self> {
        let process = Process::start(&config.command);
        let program = Self {
            name: name.to_owned(),
            config: config.clone(),
            process: None,
            was_asked: false,
            failures: Failures::default(),
            last_failure: String::new(),
            next_id: 0,
            restarts: 0,
        };
        let start = format!("{} cannot be started", program.title());
        Ok(Self { process: Some(process.map_err(Error::because(start))?), ..program })
    }

    /// Reward and program, for messages.
    fn title(&self) -> String {
        format!("reward {}: `{}`", self.name, self.config.command.join(" "))
    }

    /// Counts a failure that leaves `rollouts` roll-outs without a reward, and ends the program.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the recipe wants the run to stop then.
    fn fail(&mut self, fault: Fault, rollouts: usize) -> Result<()> {
        let Fault { kind, message } = fault;
        let mut message = format!("{} {message}", self.title());
        if let Some(mut process) = self.process.take() {
            process.kill();
            let lines = process.last_errors();
            if !lines.is_empty() {
                message += &format!("; the last lines of its stderr:\n  {}", lines.join("\n  "));
            }
        }
        self.failures.add(kind, rollouts as u64, &message);
        self.last_failure.clone_from(&message);
        match self.config.on_failure {
            OnFailure::Skip => Ok(()),
            OnFailure::Stop => Err(Error::invalid(message)),
        }
    }

    /// Notices what happened since the last batch.
    fn check_idle(&mut self) -> Result<()> {
        let process = self.process.as_mut().filter(|_| self.was_asked);
        let Some(process) = process else { return Ok(()) };
        let fault = match process.receive(Duration::ZERO) {
            Some(Output::Lines(lines)) => surplus_line(&lines.join(&b' ')),
            Some(Output::LongLine) => long_line(),
            Some(Output::Closed(_)) => ending(process),
            None if process.has_ended() => ending(process),
            None => return Ok(()),
        };
        self.fail(fault, 0)
    }

    /// The error for a program that has failed too often.
    fn used_up(&self) -> Error {
        let counts = self.failures.iter().map(|(kind, found)| {
            let count = found.count;
            format!("{kind} {count} time{}", if count == 1 { "" } else { "s" })
        });
        let counts = counts.collect::<Vec<_>>().join(", ");
        let (last, max) = (&self.last_failure, self.config.max_restarts);
        Error::invalid(format!("{last}\nit is not started again: max_restarts is {max}; {counts}"))
    }

    /// Starts the program unless it runs; `None` if it cannot be started.
    fn running(&mut self, num_rollouts: usize) -> Result<Option<&mut Process>> {
        if self.process.is_none() {
            if self.restarts >= self.config.max_restarts {
                return Err(self.used_up());
            }
            self.restarts += 1;
            match Process::start(&self.config.command) {
                Ok(process) => (self.process, self.was_asked) = (Some(process), false),
                Err(error) => {
                    let message = format!("cannot be started: {error}");
                    self.fail(Fault::new(FailureKind::NotStarted, message), num_rollouts)?;
                }
            }
        }
        Ok(self.process.as_mut())
    }
}

impl Reward for Program {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Option<f64>>> {
        if rollouts.is_empty() {
            return Ok(Vec::new());
        }
        self.check_idle()?;
        let mut requests = Requests::new(self.next_id, rollouts, self.config.images)?;
        let mut answers = Answers::new(self.next_id, rollouts.len());
        self.next_id += rollouts.len() as u64;
        let timeout = Duration::from_secs_f64(self.config.timeout_s);
        let Some(process) = self.running(rollouts.len())? else {
            return Ok(answers.into_rewards());
        };
        let noise_before = process.errors_len();
        process.send(std::mem::take(&mut requests.lines));
        let received = receive_all(process, timeout, &mut answers);
        let noise = process.errors_len() - noise_before;
        self.was_asked = true;
        if noise > NOISE {
            let message = format!("{} wrote {noise} bytes to stderr in one batch", self.title());
            self.failures.add(FailureKind::Noisy, 0, message);
        }
        match received {
            Ok(()) => self.restarts = 0,
            Err(fault) => self.fail(fault, answers.num_missing())?,
        }
        Ok(answers.into_rewards())
    }

    fn failures(&self) -> Failures {
        self.failures.clone()
    }
}

/// Receives the answers to a batch.
fn receive_all(
    process: &mut Process,
    timeout: Duration,
    answers: &mut Answers,
) -> std::result::Result<(), Fault> {
    let num_rollouts = answers.num_missing();
    let mut deadline = Instant::now() + timeout;
    let mut has_ended = false;
    while answers.num_missing() > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return match has_ended {
                true => last_answer(process, &[], answers),
                false => Err(timed_out(num_rollouts, answers.num_missing(), timeout)),
            };
        }
        match process.receive(left.min(POLL)) {
            Some(Output::Lines(lines)) => lines.iter().try_for_each(|line| answers.take(line))?,
            Some(Output::LongLine) => return Err(long_line()),
            Some(Output::Closed(rest)) => return last_answer(process, &rest, answers),
            None if !has_ended && process.has_ended() => {
                // What it started may keep its output open.
                process.kill();
                has_ended = true;
                deadline = deadline.min(Instant::now() + LAST_OUTPUT);
            }
            None => {}
        }
    }
    Ok(())
}

/// Takes the last line of a program that has closed its output, which may lack its line end if the program
/// ended well: else it may be the beginning of a number.
fn last_answer(
    process: &mut Process,
    rest: &[u8],
    answers: &mut Answers,
) -> std::result::Result<(), Fault> {
    let fault = ending(process);
    if fault.kind == FailureKind::EndedEarly && !rest.is_empty() {
        answers.take(rest)?;
    }
    if answers.num_missing() == 0 { Ok(()) } else { Err(fault) }
}

/// How a program ended that has closed its output.
fn ending(process: &mut Process) -> Fault {
    if !process.ends_soon() {
        return Fault::new(FailureKind::ClosedOutput, "closed its output but did not end");
    }
    match process.kill() {
        Some(status) if status.success() => {
            let message = "ended early; it must run until its input ends";
            Fault::new(FailureKind::EndedEarly, message)
        }
        Some(status) => Fault::new(FailureKind::Crashed, format!("crashed ({status})")),
        None => Fault::new(FailureKind::Crashed, "crashed"),
    }
}

fn timed_out(num_rollouts: usize, num_missing: usize, timeout: Duration) -> Fault {
    let answered = num_rollouts - num_missing;
    let seconds = timeout.as_secs_f64();
    let message = format!(
        "answered {answered} of {num_rollouts} roll-outs in timeout_s = {seconds}; it must write \
         and flush a line for each"
    );
    Fault::new(FailureKind::TimedOut, message)
}

fn long_line() -> Fault {
    let message = format!("wrote a line of more than {MAX_LINE} bytes");
    Fault::new(FailureKind::LongLine, message)
}
