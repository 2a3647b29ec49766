//! Runs killed at random moments: the newest checkpoint is always intact, and the final weights are those
//! of an uninterrupted run.
//!
//! `CALUMMA_KILLS=1000 cargo test --release --workspace kills` kills a thousand times; the default is 25.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use calumma::checkpoint::Manifest;
use calumma::train::{latest_checkpoint, newest_good_checkpoint};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::tiny_checkpoint;
use crate::train::assert_same_bits;

const RECIPE: &str = r#"
[run]
name = "NAME"
steps = 60
checkpoint_every = 2
eval_every = 20
keep_best = "loss"
eval_samples = 2
shown = 1
[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 96
dropout = 0.1
[tokenizer]
checkpoint = "tokenizer"
[[data]]
path = "scenes:train?count=12&size=32"
prompt_dropout = 0.2
templates = ["{caption}<image>"]
[[validation]]
path = "scenes:val?count=2&size=32"
templates = ["{caption}<image>"]
[average]
decay = 0.9
[batch]
sequences = 2
seq_len = 64
"#;

fn start(dir: &Path, name: &str) -> Child {
    let recipe = format!("{name}.toml");
    std::fs::write(dir.join(&recipe), RECIPE.replace("NAME", name)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_calumma"))
        .args(["--device", "cpu", "--quiet", "train", &recipe])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn kills_at_random_moments_lose_nothing() {
    let wanted = std::env::var("CALUMMA_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    tiny_checkpoint(&dir.join("tokenizer"));
    finish(start(dir, "straight"));
    let (_, straight) = newest_good_checkpoint(&dir.join("runs/straight")).unwrap().unwrap();

    let mut rng = ChaCha8Rng::seed_from_u64(20_26);
    let (mut kills, mut rounds) = (0, 0);
    while kills < wanted {
        rounds += 1;
        let name = format!("killed-{rounds}");
        let run = dir.join("runs").join(&name);
        while kills < wanted {
            let mut child = start(dir, &name);
            std::thread::sleep(Duration::from_millis(rng.random_range(5..400)));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            if let Some(latest) = latest_checkpoint(&run) {
                Manifest::verify(&latest).unwrap_or_else(|e| panic!("after {kills} kills: {e}"));
            }
        }
        finish(start(dir, &name));
        let (step, last) = newest_good_checkpoint(&run).unwrap().unwrap();
        assert_eq!(step, 60);
        assert_same_bits(&straight, &last);
        assert_eq!(latest_checkpoint(&run).unwrap(), last);
        let best = |run: &Path| std::fs::read_link(run.join("best")).unwrap();
        assert_eq!(best(&run), best(&dir.join("runs/straight")));
        std::fs::remove_dir_all(run).unwrap();
    }
    eprintln!("{kills} kills over {rounds} runs");
}
