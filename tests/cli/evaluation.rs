//! `calumma eval compare` and `calumma eval contamination`.

use serde_json::Value;

use super::calumma_in;
use crate::compare::{item, write};

#[test]
fn comparisons_are_printed_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let of = |right: &dyn Fn(usize) -> bool| {
        let one = |i: usize| {
            let kind = if i.is_multiple_of(2) { "color" } else { "shape" };
            let score = f64::from(u8::from(right(i)));
            item(i, &format!("rows#{i}"), Some(kind), &[("exact_match", score)])
        };
        (0..80).map(one).collect::<Vec<_>>()
    };
    write(&dir.path().join("a"), of(&|i| i % 4 == 0));
    write(&dir.path().join("b"), of(&|i| i % 4 < 3));
    let run = |args: &[&str]| calumma_in(dir.path(), &[&["eval", "compare"], args].concat());
    let table = run(&["a", "b"]);
    assert_eq!(table.code, 0, "{}", table.stderr);
    for part in ["vqa on rows", "win/tie/loss", "exact_match/color", "+0.5000", "80 items in both"]
    {
        assert!(table.stdout.contains(part), "{part:?} is not in {}", table.stdout);
    }
    let json = &run(&["a", "b", "--json", "--out", "new/c", "--seed", "3"]).json()[0];
    let score = &json["scores"][0];
    assert_eq!((&score["wins"], &score["ties"]), (&40.into(), &40.into()));
    assert_eq!((&json["resampling"]["seed"], &json["only_in_a"]), (&3.into(), &0.into()));
    let text = std::fs::read_to_string(dir.path().join("new/c/compare.json")).unwrap();
    assert_eq!(*json, serde_json::from_str::<Value>(&text).unwrap());
    assert!(dir.path().join("new/c/compare.md").is_file());

    run(&["a", "nowhere"]).fails(3, &["nowhere"]);
    let mut others = of(&|_| true);
    others[5].id = "rows#50".to_owned();
    write(&dir.path().join("others"), others);
    run(&["a", "others", "--out", "no"]).fails(3, &["id of doc_id 5", "rows#5", "rows#50"]);
    assert!(!dir.path().join("no").exists());
}

#[test]
fn evaluation_items_are_found_in_training_data() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| calumma_in(dir.path(), &[&["eval", "contamination"], args].concat());
    let clean = "scenes:train?count=40&seed=2";
    let itself = "scenes:val?count=20";
    let args = [clean, itself, "--against", itself, "--columns", "caption"];
    let found = &run(&[&args[..], &["--json", "--out", "new/c"]].concat()).json()[0];
    assert_eq!((&found["items"], &found["exact_pictures"]["items"]), (&20.into(), &20.into()));
    assert_eq!(found["exact_texts"]["share"], 1.0);
    assert_eq!(found["pictures"][0]["twin"]["dataset"], found["evaluation"]["name"]);
    let text = std::fs::read_to_string(dir.path().join("new/c/contamination.json")).unwrap();
    let mut written: Value = serde_json::from_str(&text).unwrap();
    written["left_out"] = serde_json::json!([]);
    assert_eq!(*found, written);
    let lines = std::fs::read_to_string(dir.path().join("new/c/items.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 20);
    let sheet = image::open(dir.path().join("new/c/sheet.png")).unwrap();
    assert_eq!(sheet.width(), 10 + 4 * 170);

    let words = run(&args);
    assert_eq!(words.code, 0, "{}", words.stderr);
    for part in ["exact images", "20 of 20 items (100.00 %)", "  caption: n-grams", "equal: "] {
        assert!(words.stdout.contains(part), "{part:?} is not in {}", words.stdout);
    }
    run(&["no.parquet", "--against", itself]).fails(3, &["no.parquet"]);
    run(&[clean, "--against", itself, "--columns", "capton"]).fails(3, &["column capton"]);
    assert_eq!(run(&[clean, "--against", itself, "--distance", "16"]).code, 2);
}
