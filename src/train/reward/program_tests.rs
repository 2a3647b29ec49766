//! Programs of rewards that behave, and those that fail in every way there is.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

use super::config::{OnFailure, ProgramConfig, ProgramImages};
use super::failures::FailureKind;
use super::program::Program;
use super::rollout::{Reward, Rollout};
use crate::data::Fields;
use crate::error::Result;

/// Answers every line.
const GOOD: &str = "while read -r line; do echo 0.5; done";

/// A time limit that no test is meant to reach.
const LONG: f64 = 60.0;

/// A script of the shell with a directory of its own, `$1`, where it writes the numbers of its processes to
/// `pids`.
struct Script {
    dir: TempDir,
    config: ProgramConfig,
}

impl Script {
    fn new(body: &str, timeout_s: f64) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("reward.sh");
        std::fs::write(&path, format!("echo $$ >> \"$1/pids\"\n{body}\n")).unwrap();
        let command = [PathBuf::from("sh"), path, dir.path().to_owned()];
        let config = ProgramConfig {
            command: command.map(|part| part.to_str().unwrap().to_owned()).to_vec(),
            timeout_s,
            on_failure: OnFailure::Skip,
            max_restarts: 3,
            images: ProgramImages::None,
        };
        Self { dir, config }
    }

    fn open(&self) -> Program {
        Program::open("judge", &self.config).unwrap()
    }

    /// The processes that the script has named.
    fn pids(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.dir.path().join("pids")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn starts(&self) -> usize {
        self.pids().len()
    }

    /// Panics if a process that the script has named still runs.
    fn assert_nothing_runs(&self) {
        let start = Instant::now();
        while let Some(pid) = self.pids().into_iter().find(|pid| is_running(*pid)) {
            assert!(start.elapsed() < Duration::from_secs(5), "process {pid} still runs");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether there is such a process. One that ended as an orphan may remain as a zombie, where nobody asks for
/// its status; one that ended as our child may not.
fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let mut after_name = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let is_zombie = after_name.next() == Some("Z");
    let parent = after_name.next().and_then(|parent| parent.parse::<u32>().ok());
    let is_orphan = is_zombie && parent != Some(std::process::id());
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok() && !is_orphan
}

/// The rewards of `count` roll-outs with this prompt.
fn score_prompt(program: &mut Program, prompt: &str, count: usize) -> Result<Vec<Option<f64>>> {
    let (fields, completion) = (Fields::new(), "a red circle");
    let rollout = Rollout {
        prompt,
        completion,
        images: Vec::new(),
        fields: &fields,
        ids: &[],
        tokens: 4,
        is_truncated: false,
        is_well_formed: true,
    };
    program.score(&vec![rollout; count])
}

fn score(program: &mut Program, count: usize) -> Vec<Option<f64>> {
    score_prompt(program, "draw", count).unwrap()
}

/// Checks that a batch of four keeps the first rewards, which are 1, 2 and so on, fails once in this way and
/// leaves no process behind; returns the message.
fn check(body: &str, timeout_s: f64, kind: FailureKind, kept: usize) -> String {
    let script = Script::new(body, timeout_s);
    let mut program = script.open();
    let start = Instant::now();
    let rewards = score(&mut program, 4);
    assert!(start.elapsed().as_secs_f64() < timeout_s.min(20.0) + 8.0, "{body}");
    let expected = (1..5).map(|at| (at <= kept).then_some(at as f64));
    assert_eq!(rewards, expected.collect::<Vec<_>>(), "{body}");
    let failures = program.failures();
    assert_eq!((failures.total(), failures.count(kind)), (1, 1), "{body}: {failures:?}");
    let (_, found) = failures.iter().next().unwrap();
    assert_eq!(found.rollouts, 4 - kept as u64, "{body}");
    assert!(found.last.starts_with("reward judge: `sh "), "{}", found.last);
    // Before the program is dropped.
    script.assert_nothing_runs();
    found.last.clone()
}

#[test]
fn a_program_that_behaves_runs_on_from_batch_to_batch() {
    let script = Script::new(&format!("{GOOD}; echo bye > \"$1/bye\""), LONG);
    let mut program = script.open();
    for count in [4, 1, 0, 9] {
        assert_eq!(score(&mut program, count), vec![Some(0.5); count]);
    }
    assert!(program.failures().is_empty());
    assert_eq!(script.starts(), 1);
    drop(program);
    assert!(script.dir.path().join("bye").exists(), "it was not killed but ended with its input");
    script.assert_nothing_runs();
}

#[test]
fn answers_with_ids_come_in_any_order() {
    let body = r#"
        while read -r a && read -r b && read -r c; do
            for line in "$c" "$a" "$b"; do
                id=${line#*:}; id=${id%%,*}
                echo "{\"reward\": -$id, \"id\": $id}"
            done
        done"#;
    let script = Script::new(body, LONG);
    let mut program = script.open();
    assert_eq!(score(&mut program, 3), [Some(0.0), Some(-1.0), Some(-2.0)]);
    assert_eq!(score(&mut program, 3), [Some(-3.0), Some(-4.0), Some(-5.0)]);
    assert!(program.failures().is_empty());
}

#[test]
fn a_program_that_ends_by_itself_is_one_failure() {
    use FailureKind::{ClosedOutput, Crashed, EndedEarly};
    let at_once = check("exit 3", LONG, Crashed, 0);
    assert!(at_once.ends_with(" crashed (exit status: 3)"), "{at_once}");
    let midway = "read -r a; echo 1; echo 2; echo first >&2; echo 'out of memory' >&2; kill -9 $$";
    let midway = check(midway, LONG, Crashed, 2);
    assert!(midway.contains(" crashed (signal: 9"), "{midway}");
    assert!(midway.ends_with("of its stderr:\n  first\n  out of memory"), "{midway}");
    check("read -r a; echo 1; exit 0", LONG, EndedEarly, 1);
    check("echo 1; exec 1>&-; sleep 60", LONG, ClosedOutput, 1);
    // Half a number is no number.
    check("printf '1\\n2\\n3'; exit 1", LONG, Crashed, 2);
}

#[test]
fn a_last_line_needs_no_end_if_the_program_ends_well() {
    let script = Script::new("printf '1\\nnull\\n3\\n4'", LONG);
    let mut program = script.open();
    assert_eq!(score(&mut program, 4), [Some(1.0), None, Some(3.0), Some(4.0)]);
    assert!(program.failures().is_empty());
    script.assert_nothing_runs();
}

#[test]
fn a_program_that_hangs_is_ended_at_the_time_limit() {
    let message = check("read -r a; echo 1; sleep 60", 1.5, FailureKind::TimedOut, 1);
    assert!(message.contains("answered 1 of 4 roll-outs in timeout_s = 1.5"), "{message}");
    check("trap '' TERM INT HUP; while :; do sleep 1; done", 0.5, FailureKind::TimedOut, 0);
    check("echo 1; printf 2; sleep 60", 1.5, FailureKind::TimedOut, 1);
}

#[test]
fn lines_that_are_no_answers_are_one_failure() {
    use FailureKind::{LongLine, NotANumber, NotFinite, SurplusLine, WrongId};
    let with = |lines: &str| format!("printf -- '{lines}'; cat > /dev/null");
    check(&with("1\\n2\\nloading the model\\n3\\n"), LONG, NotANumber, 2);
    check(&with("1\\n\\n"), LONG, NotANumber, 1);
    check(&with("1\\nnan\\n3\\n4\\n"), LONG, NotFinite, 1);
    check(&with("-Infinity\\n"), LONG, NotFinite, 0);
    check(&with("1\\n2\\n3\\n4\\n5\\n"), LONG, SurplusLine, 4);
    check(&with("1\\n{\"id\": 4, \"reward\": 1}\\n"), LONG, WrongId, 1);
    let long = "echo 1; head -c 200000 /dev/zero | tr '\\0' 1; cat > /dev/null";
    check(long, LONG, LongLine, 1);
    check("yes ''", LONG, NotANumber, 0);
}

#[test]
fn input_that_nobody_reads_blocks_nothing() {
    let script = Script::new("head -c 1 > /dev/null; printf '1\\n2\\n3\\n4\\n'; sleep 60", LONG);
    let mut program = script.open();
    let prompt = "long ".repeat(200_000);
    let rewards = score_prompt(&mut program, &prompt, 4).unwrap();
    assert_eq!(rewards, [1.0, 2.0, 3.0, 4.0].map(Some));
    assert!(program.failures().is_empty());
    let start = Instant::now();
    drop(program);
    assert!(start.elapsed() < Duration::from_secs(10));
    script.assert_nothing_runs();

    let script = Script::new("exec 0<&-; sleep 60", 1.0);
    let mut program = script.open();
    assert_eq!(score_prompt(&mut program, &prompt, 2).unwrap(), [None; 2]);
    assert_eq!(program.failures().count(FailureKind::TimedOut), 1);
    script.assert_nothing_runs();
}

#[test]
fn much_on_stderr_blocks_nothing_and_loses_nothing() {
    let noise = "head -c 10000000 /dev/zero | tr '\\0' x >&2";
    let script = Script::new(&format!("read -r a; {noise}; echo 0.5; {GOOD}"), LONG);
    let mut program = script.open();
    assert_eq!(score(&mut program, 3), [Some(0.5); 3]);
    assert_eq!(score(&mut program, 3), [Some(0.5); 3]);
    let failures = program.failures();
    assert_eq!((failures.total(), failures.count(FailureKind::Noisy)), (1, 1), "{failures:?}");
    assert_eq!(script.starts(), 1);
}

#[test]
fn what_a_program_has_started_ends_with_it() {
    let start = "sleep 60 & echo $! >> \"$1/pids\"; read -r a; echo 1;";
    check(&format!("{start} exit 0"), LONG, FailureKind::EndedEarly, 1);
    check(&format!("{start} exit 1"), LONG, FailureKind::Crashed, 1);
    check(&format!("{start} wait"), 1.5, FailureKind::TimedOut, 1);
    let script = Script::new(&format!("{start} {GOOD}"), LONG);
    let mut program = script.open();
    assert_eq!(score(&mut program, 2), [Some(1.0), Some(0.5)]);
    drop(program);
    script.assert_nothing_runs();
}

#[test]
fn a_failed_program_is_started_again_for_the_next_batch() {
    let body = format!("[ -e \"$1/seen\" ] || {{ touch \"$1/seen\"; exit 1; }}; {GOOD}");
    let script = Script::new(&body, LONG);
    let mut program = script.open();
    assert_eq!(score(&mut program, 2), [None; 2]);
    assert_eq!(score(&mut program, 2), [Some(0.5); 2]);
    assert_eq!(score(&mut program, 2), [Some(0.5); 2]);
    assert_eq!((program.failures().total(), script.starts()), (1, 2));
}

#[test]
fn restarts_in_a_row_are_limited() {
    let mut script = Script::new("exit 1", LONG);
    script.config.max_restarts = 2;
    let mut program = script.open();
    for _ in 0..3 {
        assert_eq!(score(&mut program, 2), [None; 2]);
    }
    let error = score_prompt(&mut program, "draw", 2).unwrap_err().to_string();
    let end =
        " crashed (exit status: 1)\nit is not started again: max_restarts is 2; crashed 3 times";
    assert!(error.ends_with(end), "{error}");
    assert_eq!(script.starts(), 3);

    // Every other batch succeeds.
    let body = "while read -r a; do
        if [ -e \"$1/seen\" ]; then rm \"$1/seen\"; exit 1; fi
        touch \"$1/seen\"; echo 1
    done";
    let mut script = Script::new(body, LONG);
    script.config.max_restarts = 1;
    let mut program = script.open();
    let rewards: Vec<_> = (0..6).map(|_| score(&mut program, 1)[0]).collect();
    assert_eq!(rewards, [Some(1.0), None, Some(1.0), None, Some(1.0), None]);
}

#[test]
fn a_program_that_is_gone_is_a_failure_of_each_batch() {
    let mut script = Script::new("read -r a; exit 1", LONG);
    let shell = script.dir.path().join("shell");
    std::os::unix::fs::symlink("/bin/sh", &shell).unwrap();
    script.config.command[0] = shell.to_str().unwrap().to_owned();
    let mut program = script.open();
    std::fs::remove_file(&shell).unwrap();
    for count in 0..3 {
        assert_eq!(score(&mut program, 2), [None; 2]);
        assert_eq!(program.failures().count(FailureKind::NotStarted), count);
    }
    assert_eq!((program.failures().total(), script.starts()), (3, 1));
}

#[test]
fn a_run_that_must_stop_stops_with_the_reason() {
    let mut script = Script::new("read -r a; echo 1; echo 'no such module' >&2; exit 1", LONG);
    script.config.on_failure = OnFailure::Stop;
    let mut program = script.open();
    let error = score_prompt(&mut program, "draw", 2).unwrap_err().to_string();
    assert!(error.contains("crashed (exit status: 1); the last lines of its stderr:"), "{error}");
    assert!(error.ends_with("\n  no such module"), "{error}");
    assert_eq!(program.failures().count(FailureKind::Crashed), 1);
    script.assert_nothing_runs();
}

#[test]
fn what_happens_between_batches_spoils_no_answer() {
    for (after, kind) in [
        ("echo 7; cat > /dev/null", FailureKind::SurplusLine),
        ("exit 0", FailureKind::EndedEarly),
        ("exit 1", FailureKind::Crashed),
    ] {
        let script = Script::new(&format!("read -r a; echo 0.5; sleep 0.3; {after}"), LONG);
        let mut program = script.open();
        assert_eq!(score(&mut program, 1), [Some(0.5)]);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(score(&mut program, 1), [Some(0.5)], "{after}");
        let failures = program.failures();
        assert_eq!((failures.total(), failures.count(kind)), (1, 1), "{after}: {failures:?}");
        assert_eq!(failures.iter().next().unwrap().1.rollouts, 0);
        assert_eq!(script.starts(), 2, "{after}");
    }
}

#[test]
fn a_program_of_python_need_not_flush() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("reward.py");
    let body = "import json, sys\n\
                for line in sys.stdin:\n    \
                    rollout = json.loads(line)\n    \
                    print(json.dumps({'id': rollout['id'], 'reward': len(rollout['prompt'])}))\n    \
                    if rollout['prompt'] == 'fail':\n        \
                        raise ValueError('no reward for it')\n";
    std::fs::write(&path, body).unwrap();
    let command = vec!["python3".to_owned(), path.to_str().unwrap().to_owned()];
    let config = ProgramConfig { command, ..Script::new("", LONG).config };
    let mut program = Program::open("judge", &config).unwrap();
    assert_eq!(score_prompt(&mut program, "draw", 2).unwrap(), [Some(4.0); 2]);
    assert_eq!(score_prompt(&mut program, "fail", 2).unwrap(), [Some(4.0), None]);
    let failures = program.failures();
    let (kind, found) = failures.iter().next().unwrap();
    assert_eq!((kind, found.count), (FailureKind::Crashed, 1));
    assert!(found.last.ends_with("\n  ValueError: no reward for it"), "{}", found.last);
}
