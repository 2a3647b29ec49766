//! A child process that reads and writes lines, and never outlives its value.
//!
//! A thread each writes its input, reads its output and reads what it complains of, so that no pipe can fill
//! up and block both sides. On Unix the child leads a process group of its own; ending it ends all that it
//! has started, unless that has left the group (`setsid`). What has left is not waited for.

use std::io::{self, ErrorKind, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// The longest line that is read, in bytes.
pub(super) const MAX_LINE: usize = 1 << 16;

/// Bytes of stderr that are kept.
const KEPT_ERRORS: usize = 1 << 13;

/// Lines of stderr in a message.
const SHOWN_LINES: usize = 8;

/// Characters of a line of stderr in a message.
const SHOWN_CHARS: usize = 200;

/// Outputs that wait to be received; if there are more, the child must wait.
const WAITING: usize = 16;

/// How long a child may take to end after its input or output has.
const GRACE: Duration = Duration::from_secs(1);

/// Pause between two looks at a child that is about to end.
const PAUSE: Duration = Duration::from_millis(2);

/// What a child writes.
#[derive(Debug)]
pub(super) enum Output {
    /// Whole lines that came together, without line ends.
    Lines(Vec<Vec<u8>>),
    /// A line of more than [`MAX_LINE`] bytes; nothing is read after it.
    LongLine,
    /// The end of the output, and what follows the last line end.
    Closed(Vec<u8>),
}

/// A running child.
pub(super) struct Process {
    group: Group,
    input: Option<Sender<Vec<u8>>>,
    output: Receiver<Output>,
    errors: Arc<Mutex<Errors>>,
    errors_thread: JoinHandle<()>,
}

/// What a child wrote to stderr.
#[derive(Default)]
struct Errors {
    /// The end of it.
    tail: Vec<u8>,
    /// All of it, in bytes.
    len: u64,
}

impl Process {
    /// Starts the program and arguments of `command`.
    pub(super) fn start(command: &[String]) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        // Python keeps lines back when it writes to a pipe.
        command.args(arguments).env("PYTHONUNBUFFERED", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut group = Group { child: command.spawn()?, status: None };
        let child = &mut group.child;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let (input, batches) = channel();
        let (lines, output) = sync_channel(WAITING);
        let errors = Arc::new(Mutex::new(Errors::default()));
        let kept = Arc::clone(&errors);
        let thread = |name: &str| Builder::new().name(format!("reward-{name}"));
        thread("input").spawn(move || write_batches(stdin, &batches))?;
        thread("output").spawn(move || read_lines(stdout, &lines))?;
        let errors_thread = thread("errors").spawn(move || read_errors(stderr, &kept))?;
        Ok(Self { group, input: Some(input), output, errors, errors_thread })
    }

    /// Writes `lines` to the child's input, without waiting until it reads them.
    pub(super) fn send(&self, lines: Vec<u8>) {
        if let Some(input) = &self.input {
            // The thread has ended if the child closed its input; its output tells why.
            let _ = input.send(lines);
        }
    }

    /// The next output; `None` if there is none within `wait`.
    pub(super) fn receive(&self, wait: Duration) -> Option<Output> {
        self.output.recv_timeout(wait).ok()
    }

    /// Whether the child has ended; processes that it started may still run.
    pub(super) fn has_ended(&mut self) -> bool {
        self.group.has_ended()
    }

    /// Whether the child ends within a short time.
    pub(super) fn ends_soon(&mut self) -> bool {
        let start = Instant::now();
        while !self.has_ended() {
            if start.elapsed() > GRACE {
                return false;
            }
            sleep(PAUSE);
        }
        true
    }

    /// Ends the child and all that it has started; how it ended, if that is known.
    pub(super) fn kill(&mut self) -> Option<ExitStatus> {
        self.group.kill()
    }

    /// Bytes that the child has written to stderr.
    pub(super) fn errors_len(&self) -> u64 {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).len
    }

    /// The last lines that a child wrote to stderr before it was killed.
    pub(super) fn last_errors(&self) -> Vec<String> {
        let start = Instant::now();
        while !self.errors_thread.is_finished() && start.elapsed() < GRACE {
            sleep(PAUSE);
        }
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&errors.tail).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        last.iter().map(|line| line.chars().take(SHOWN_CHARS).collect()).collect()
    }
}

impl Drop for Process {
    /// Ends the child's input, gives it a short time to end by itself and kills it.
    fn drop(&mut self) {
        self.input = None;
        self.ends_soon();
        self.kill();
    }
}

/// A child with all that it has started.
struct Group {
    child: Child,
    /// Set once the child is gone, when its number may be that of another process.
    status: Option<Option<ExitStatus>>,
}

impl Group {
    /// Whether the child has ended. It stays a zombie until it is killed, so that its number stays its own.
    fn has_ended(&mut self) -> bool {
        if self.status.is_some() {
            return true;
        }
        #[cfg(unix)]
        {
            use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let found = waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
            // An error means that there is no such child any more.
            !matches!(found, Ok(None))
        }
        #[cfg(not(unix))]
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    fn signal(&mut self) {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal, kill_process_group};
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        // Fails if it has ended.
        let _ = self.child.kill();
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.signal();
            self.status = Some(self.child.wait().ok());
        }
        self.status.flatten()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes what comes, until nothing more can come or the child reads no more.
fn write_batches(mut stdin: impl Write, batches: &Receiver<Vec<u8>>) {
    for batch in batches {
        if stdin.write_all(&batch).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Passes lines on, until the output ends or nobody listens.
fn read_lines(mut stdout: impl Read, lines: &SyncSender<Output>) {
    let (mut pending, mut buffer) = (Vec::new(), vec![0; MAX_LINE]);
    loop {
        let len = read(&mut stdout, &mut buffer);
        let output = if len == 0 {
            Output::Closed(std::mem::take(&mut pending))
        } else {
            pending.extend_from_slice(&buffer[..len]);
            let found = whole_lines(&mut pending);
            let is_long = |line: &Vec<u8>| line.len() > MAX_LINE;
            match found.iter().any(is_long) || is_long(&pending) {
                true => Output::LongLine,
                false if found.is_empty() => continue,
                false => Output::Lines(found),
            }
        };
        let is_last = !matches!(output, Output::Lines(_));
        if lines.send(output).is_err() || is_last {
            return;
        }
    }
}

/// Takes all whole lines from the beginning of `pending`.
fn whole_lines(pending: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let Some(last) = pending.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
    let rest = pending.split_off(last + 1);
    let whole = std::mem::replace(pending, rest);
    whole[..last].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// Keeps the end of what the child complains of.
fn read_errors(mut stderr: impl Read, errors: &Mutex<Errors>) {
    let mut buffer = vec![0; KEPT_ERRORS];
    loop {
        let len = read(&mut stderr, &mut buffer);
        if len == 0 {
            return;
        }
        let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.len += len as u64;
        errors.tail.extend_from_slice(&buffer[..len]);
        let surplus = errors.tail.len().saturating_sub(KEPT_ERRORS);
        errors.tail.drain(..surplus);
    }
}

/// Reads what is there, waiting for something; 0 at the end.
fn read(from: &mut impl Read, buffer: &mut [u8]) -> usize {
    loop {
        match from.read(buffer) {
            Ok(len) => return len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return 0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// What is passed on of `text`, which comes in pieces of `size` bytes.
    fn outputs(text: &[u8], size: usize) -> (Vec<Vec<u8>>, Output) {
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let (now, later) = self.0.split_at(self.1.min(self.0.len()));
                self.0 = later;
                (&mut &*now).read(buffer)
            }
        }
        let (send, receive) = sync_channel(text.len() + 2);
        read_lines(Pieces(text, size), &send);
        let mut lines = Vec::new();
        loop {
            match receive.recv().unwrap() {
                Output::Lines(found) => lines.extend(found),
                last => return (lines, last),
            }
        }
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        for size in [1, 2, 3, 100] {
            let (lines, last) = outputs(b"1\n\n-2.5\nnu", size);
            assert_eq!(lines, [b"1".to_vec(), b"".to_vec(), b"-2.5".to_vec()], "{size}");
            assert!(matches!(last, Output::Closed(rest) if rest == b"nu"));
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        let (lines, last) = outputs(&[b"1\n".to_vec(), vec![b'0'; 3 * MAX_LINE]].concat(), 9999);
        assert_eq!(lines, [b"1"]);
        assert!(matches!(last, Output::LongLine));
        let (_, last) = outputs(&vec![b'0'; MAX_LINE], 9999);
        assert!(matches!(last, Output::Closed(_)));
    }
}
