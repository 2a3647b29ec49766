//! The three training verbs in sequence, from scenes to a model that draws.

use std::path::Path;

use serde_json::{Value, json};

use super::{calumma_in, text};

pub(super) const VQ: &str = r#"
[run]
name = "vq"
steps = 3
log_every = 1
eval_samples = 2
[model]
resolution = 32
base_channels = 32
channel_multiplier = [1, 1, 1, 1]
num_res_blocks = 1
attn_resolutions = []
latent_channels = 8
embed_dim = 8
num_embeddings = 24
[[data]]
path = "scenes:train?count=16&size=32"
[[validation]]
path = "scenes:val?count=2&size=32"
[batch]
images = 2
"#;

const BPE: &str = r#"
[run]
name = "bpe"
documents = 50
[bpe]
vocab_size = 512
num_codes = 24
[[data]]
path = "scenes:train?count=50&size=32"
templates = ["{caption}"]
"#;

pub(super) const LM: &str = r#"
[run]
name = "lm"
steps = 2
checkpoint_every = 1
eval_samples = 2
[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 128
[tokenizer]
checkpoint = "runs/vq/latest"
text = "runs/bpe/tokenizer.json"
[[data]]
path = "scenes:train?count=16&size=32"
templates = ["{caption}<image>"]
[batch]
sequences = 2
seq_len = 64
"#;

#[test]
fn recipes_train_a_model_that_draws() {
    let dir = tempfile::tempdir().unwrap();
    for (name, recipe) in [("vq.toml", VQ), ("bpe.toml", BPE), ("lm.toml", LM)] {
        std::fs::write(dir.path().join(name), recipe).unwrap();
    }
    let run = |args: &[&str]| calumma_in(dir.path(), &[args, &["--json"]].concat()).json();
    let vq = &run(&["vq", "train", "vq.toml"])[0];
    assert!(vq["evaluation"]["psnr"].is_f64(), "{vq}");
    assert_eq!(run(&["bpe", "train", "bpe.toml"])[0]["vocab_size"], 512);

    let dry = &run(&["train", "lm.toml", "--dry-run"])[0];
    assert_eq!(dry["tokens"], 2 * 2 * 64);
    assert_eq!(dry["parameters"]["embedding"], 512 * 32);
    let document = dry["first_batch"][0].as_str().unwrap();
    assert!(document.starts_with('⟦') && document.ends_with("[image 4x4]</s>⟧"), "{dry}");
    let answers = "templates = [\"<image>what is it?<sep>{caption}\"]\nloss = \"answers\"";
    let answering = LM.replace("templates = [\"{caption}<image>\"]", answers);
    std::fs::write(dir.path().join("answers.toml"), answering).unwrap();
    let dry = &run(&["train", "answers.toml", "--dry-run"])[0];
    let document = dry["first_batch"][0].as_str().unwrap();
    assert!(document.starts_with("[image 4x4]what is it?<reserved08706>⟦"), "{dry}");
    assert!(document.ends_with("</s>⟧"), "{dry}");
    assert!(!dir.path().join("runs/lm/latest").exists());

    all_experts_are_stored_and_a_tokens_computed(dir.path(), dry);
    chats_are_trained_by_the_template_beside_the_tokenizer(dir.path());
    long_rows_and_prompts_that_end_within_an_id_are_told(dir.path());

    let trained = &run(&["train", "lm.toml"])[0];
    assert_eq!((&trained["steps"], &trained["resumed_at"]), (&json!(2), &json!(0)));
    let resumed = &run(&["train", "lm.toml", "--set", "run.steps=3"])[0];
    assert_eq!(resumed["resumed_at"], 2);
    let checkpoint = resumed["checkpoint"].as_str().unwrap();
    assert!(checkpoint.ends_with("step-0000003"), "{checkpoint}");
    assert_eq!(run(&["inspect", "runs/lm"])[0]["step"], 3);
    assert_eq!(run(&["inspect", checkpoint])[0]["resumable"], true);
    let drawn = run(&["draw", "runs/lm/latest", "a red circle"]);
    assert!(dir.path().join(drawn[0]["path"].as_str().unwrap()).is_file());

    let inspected = &run(&["inspect", text("lm.toml".as_ref())])[0];
    assert_eq!(inspected["recipe"]["optimizer"]["kind"], "adamw");
}

/// A dry run with sparse layers and latent attention beside the dense one, `dense`.
fn all_experts_are_stored_and_a_tokens_computed(dir: &Path, dense: &Value) {
    let mut args = vec!["train", "lm.toml", "--dry-run", "--json"];
    let sizes = [
        "model.experts.num_experts=8",
        "model.experts.num_experts_per_tok=2",
        "model.experts.moe_intermediate_size=24",
        "model.experts.norm_topk_prob=true",
        "model.latent.kv_lora_rank=8",
        "model.latent.qk_nope_head_dim=16",
        "model.latent.qk_rope_head_dim=4",
        "model.latent.v_head_dim=16",
        "model.qk_norm=none",
    ];
    sizes.iter().for_each(|size| args.extend(["--set", size]));
    let dry = &calumma_in(dir, &args).json()[0];
    let of = |key: &str| dry[key].as_u64().unwrap();
    let expert = 3 * 32 * 24;
    assert_eq!(dry["parameters"]["feed-forward"], 8 * expert + 8 * 32);
    assert_eq!(of("total_parameters") - of("active_parameters"), 6 * expert);
    let memory = |dry: &Value, key: &str| dry["memory"][key].as_f64().unwrap();
    assert_eq!(memory(dry, "optimizer"), 8.0 * of("total_parameters") as f64);
    // Two experts are as wide as the dense layer, with 2 rows of 32 each. Expanded keys and values: 2 heads of 20 and 16.
    let attention = |q: i32, v: i32| 4 * q + 2 * v;
    let more = 2 * 2 * 32 + attention(40, 32) - attention(32, 32);
    let more = 4.0 * 2.0 * 64.0 * f64::from(more);
    assert_eq!(memory(dry, "activations") - memory(dense, "activations"), more);
    let cache = json!({
        "token_bytes": 4 * 12, "grouped_queries": { "num_key_value_heads": 1, "token_bytes": 4 * 32 }
    });
    assert_eq!(dry["cache"], cache);
    assert_eq!(dense["cache"], json!({ "token_bytes": 4 * 64, "grouped_queries": null }));
}

/// A run with the tokenizers in `dir` and a chat template, which its checkpoint has too.
fn chats_are_trained_by_the_template_beside_the_tokenizer(dir: &Path) {
    let template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\
        {{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }} {% endif %}{% endfor %}";
    std::fs::write(dir.join("runs/bpe/chat_template.jinja"), template).unwrap();
    let source = "templates = [\"chat_template\"]\nexplode = \"questions\"\nloss = \"answers\"\n\
        too_long = \"truncate\"";
    let recipe = LM.replace("templates = [\"{caption}<image>\"]", source);
    let recipe = recipe.replace("name = \"lm\"", "name = \"chat\"");
    std::fs::write(dir.join("chat.toml"), recipe).unwrap();
    let dry = &calumma_in(dir, &["train", "chat.toml", "--dry-run", "--json"]).json()[0];
    let document = dry["first_batch"][0].as_str().unwrap();
    assert!(document.contains("? ⟦") && document.ends_with("</s>⟧"), "{dry}");
    calumma_in(dir, &["train", "chat.toml", "--json"]).json();
    let kept = std::fs::read_to_string(dir.join("runs/chat/latest/chat_template.jinja")).unwrap();
    assert_eq!(kept, template);
}

/// Dry runs with the tokenizers in `dir`.
fn long_rows_and_prompts_that_end_within_an_id_are_told(dir: &Path) {
    let rows = |prompt: &str, completion: &str| {
        let row = json!({ "prompt": prompt, "completion": completion }).to_string();
        std::fs::write(dir.join("rows.jsonl"), [row.as_str(), &row].join("\n")).unwrap();
        calumma_in(dir, &["train", "rows.toml", "--dry-run"])
    };
    let source = "path = \"rows.jsonl\"\ntemplates = [\"{prompt}<answer>{completion}\"]\n\
        loss = \"answers\"\ntoo_long = \"truncate\"\n[batch]";
    let (start, _) = LM.split_once("path = \"scenes").unwrap();
    let end = LM.split_once("[batch]").unwrap().1;
    std::fs::write(dir.join("rows.toml"), format!("{start}{source}{end}")).unwrap();
    let run = rows("a small re", "d circle");
    assert!(run.stdout.contains("\n  a small⟦ red circle</s>⟧"), "{}", run.stdout);
    let notes = run.stderr.matches("the ids of some prompts go on into the answer").count();
    assert_eq!(notes, 1, "{}", run.stderr);
    let run = rows("what?", &"red circle ".repeat(60));
    assert!(run.stdout.contains("documents are cut to 64 tokens"), "{}", run.stdout);
    let run = rows(&"red circle ".repeat(60), "what?");
    assert!(run.stderr.contains("do not fit a row of 64 tokens (the last has 1"), "{}", run.stderr);
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_the_run_and_exits_with_130() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vq.toml"), VQ).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_calumma"))
        .args(["--device", "cpu", "vq", "train", "vq.toml", "--set", "run.steps=1000000"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = dir.path().join("runs/vq/metrics.jsonl");
    let start = Instant::now();
    while std::fs::metadata(&log).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(start.elapsed() < Duration::from_secs(120), "no step was logged");
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let run = &calumma_in(dir.path(), &["inspect", "runs/vq", "--json"]).json()[0];
    assert!(run["step"].as_u64().unwrap() > 0);
}
