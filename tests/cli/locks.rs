//! Two runs in one directory: the second is told who holds it.

use std::process::{Command, Stdio};
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

#[test]
fn a_killed_run_leaves_no_lock_and_readers_need_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vq.toml"), VQ).unwrap();
    let endless = ["vq", "train", "vq.toml", "--set", "run.steps=1000000"];
    for _ in 0..2 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_calumma"))
            .args(["--device", "cpu"])
            .args(endless)
            .args(["--set", "run.checkpoint_every=1"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !dir.path().join("runs/vq/latest").exists() {
            assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint was written");
            std::thread::sleep(Duration::from_millis(20));
        }
        let metrics = || std::fs::read_to_string(dir.path().join("runs/vq/metrics.jsonl")).unwrap();
        let second = calumma_in(dir.path(), &endless);
        second.fails(3, &["runs/vq: in use by "]);
        let pid = format!("process {}", child.id());
        assert!(second.stderr.contains(&pid) || cfg!(windows), "{}", second.stderr);
        assert_eq!(calumma_in(dir.path(), &["inspect", "runs/vq"]).code, 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!metrics().is_empty());
    }
    // At once, and from where the killed run was.
    let steps = "run.steps=2000000";
    let mut child = Command::new(env!("CARGO_BIN_EXE_calumma"))
        .args(["--device", "cpu", "vq", "train", "vq.toml", "--set", steps])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let resumed = || {
        let text = std::fs::read_to_string(dir.path().join("runs/vq/metrics.jsonl")).unwrap();
        text.matches("resumed").count() >= 2
    };
    while !resumed() {
        assert!(child.try_wait().unwrap().is_none(), "the run was refused");
        assert!(start.elapsed() < Duration::from_secs(120), "the run was not resumed");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
