//! Two runs in one directory: the second is told who holds it.

#[cfg(unix)]
use std::path::Path;
#[cfg(unix)]
use std::process::{Child, Command, Stdio};
#[cfg(unix)]
use std::time::{Duration, Instant};

use calumma::lock::DirectoryLock;

use super::training::{LM, VQ};
use super::{calumma_in, tiny};

#[test]
fn every_verb_that_resumes_refuses_a_directory_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let bpe = "[run]\nname = \"r\"\n[bpe]\nvocab_size = 512\nnum_codes = 24\n\
               [[data]]\npath = \"scenes:train?count=5&size=32\"\ntemplates = [\"{caption}\"]\n";
    let tokens = format!(
        "[run]\nname = \"r\"\n[tokenizer]\ncheckpoint = {:?}\n\
         [[data]]\npath = \"scenes:train?count=5&size=32\"\ntemplates = [\"{{caption}}<image>\"]\n",
        tiny()
    );
    let eval = format!(
        "[run]\nname = \"r\"\ndirectory = \"runs\"\ncheckpoint = {:?}\n[[task]]\nname = \"t\"\n\
         measure = \"reconstruction\"\ndata = \"scenes:val?count=2&size=32\"\n",
        tiny()
    );
    let vq = VQ.replace("name = \"vq\"", "name = \"r\"");
    let lm = LM
        .replace("name = \"lm\"", "name = \"r\"")
        .replace("runs/vq/latest", tiny())
        .replace("text = \"runs/bpe/tokenizer.json\"\n", "");
    for (name, recipe) in
        [("bpe", bpe), ("tokens", &tokens), ("eval", &eval), ("vq", &vq), ("lm", &lm)]
    {
        std::fs::write(dir.path().join(format!("{name}.toml")), recipe).unwrap();
    }
    let scenes = "scenes:val?count=2&size=32";
    let verbs: [&[&str]; 8] = [
        &["bpe", "train", "bpe.toml"],
        &["tokenize", "tokens.toml"],
        &["tokenize", "tokens.toml", "--shard", "1/2"],
        &["eval", "run", "eval.toml"],
        &["eval", "captioning", tiny(), scenes, "--out", "runs/r"],
        &["eval", "reconstruction", tiny(), scenes, "--out", "runs/r"],
        &["vq", "train", "vq.toml"],
        &["train", "lm.toml"],
    ];
    let held = DirectoryLock::alone(&dir.path().join("runs/r")).unwrap();
    let holder = format!("process {}", std::process::id());
    for args in verbs {
        let refused = calumma_in(dir.path(), args);
        refused.fails(3, &["runs/r: in use by ", "or choose another directory"]);
        assert!(refused.stderr.contains(&holder) || cfg!(windows), "{}", refused.stderr);
        let files = std::fs::read_dir(dir.path().join("runs/r")).unwrap().count();
        assert_eq!(files, 1, "{args:?} wrote into a directory that another process holds");
    }
    let dry = calumma_in(dir.path(), &["train", "lm.toml", "--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.stderr);
    drop(held);
    for args in verbs {
        let free = calumma_in(dir.path(), args);
        assert!(!free.stderr.contains("in use"), "{}", free.stderr);
    }
}

/// Starts an endless training of an image tokenizer and waits until it holds its directory.
#[cfg(unix)]
fn start(dir: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calumma"))
        .args(["--device", "cpu", "vq", "train", "vq.toml"])
        .args(["--set", "run.steps=1000000", "--set", "run.checkpoint_every=25"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mark = format!("\"pid\":{},", child.id());
    let lock = dir.join("runs/vq/lock");
    wait_for("the lock", || {
        assert!(child.try_wait().unwrap().is_none(), "the run was refused");
        std::fs::read_to_string(&lock).is_ok_and(|text| text.contains(&mark))
    });
    child
}

#[cfg(unix)]
fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
#[test]
fn a_killed_run_leaves_no_lock_and_readers_need_none() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    std::fs::write(dir.join("vq.toml"), VQ).unwrap();
    let log = || std::fs::read_to_string(dir.join("runs/vq/metrics.jsonl")).unwrap_or_default();
    for times in 0..3 {
        let mut child = start(dir);
        wait_for("a checkpoint", || dir.join("runs/vq/latest").exists());
        wait_for("the resumed run", || log().matches("\"resumed\"").count() >= times);
        let second = calumma_in(dir, &["vq", "train", "vq.toml"]);
        second.fails(3, &["runs/vq: in use by ", &format!("process {}", child.id())]);
        assert_eq!(calumma_in(dir, &["inspect", "runs/vq"]).code, 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
