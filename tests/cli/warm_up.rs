//! `warm-up` where there is nothing to compile.

use super::{calumma_in, tiny};

#[test]
fn on_the_cpu_there_is_nothing_to_compile() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = calumma_in(dir.path(), &["warm-up", tiny()]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("cpu: nothing to compile"), "{}", outcome.stdout);
    assert_eq!(outcome.stderr, "");
    let outcome = calumma_in(dir.path(), &["warm-up", tiny(), "--json"]).json();
    assert_eq!(outcome, [serde_json::json!({ "device": "cpu", "kernels": 0, "new": 0 })]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn warm_up_needs_something_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = calumma_in(dir.path(), &["warm-up"]);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("CHECKPOINT|RECIPE"), "{}", outcome.stderr);
}
