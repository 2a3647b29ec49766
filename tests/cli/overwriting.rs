//! No verb overwrites a file that it was not asked to replace.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{calumma_in, image, text, tiny};

/// The PNG files in `dir`.
fn pngs(dir: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".png")).collect()
}

#[test]
fn every_drawing_gets_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    // Longer than a file name takes, and short enough for the context.
    let long = "a red square a red square a red square a red square";
    for (case, prompts) in [
        ("other scripts", ["\u{7ea2}\u{8272}\u{5706}\u{5708}", "\u{84dd}\u{8272}\u{65b9}\u{5757}"]),
        ("nothing but symbols", ["\u{1f534}", "\u{1f7e6}"]),
        ("long ones with one beginning", [&format!("{long} a star"), &format!("{long} a ring")]),
        ("punctuation alone differs", ["a red circle", "A red circle!"]),
        ("the same", ["a red circle", "a red circle"]),
        ("rare letters", ["\u{10400}\u{10401}", "\u{df}\u{130}"]),
    ] {
        let out = dir.path().join(case);
        for prompt in prompts {
            let drawn =
                calumma_in(dir.path(), &["draw", tiny(), prompt, "--out", text(&out), "--json"]);
            let path = drawn.json()[0]["path"].as_str().unwrap().to_owned();
            assert!(dir.path().join(&path).is_file(), "{path}");
        }
        assert_eq!(pngs(&out).len(), 2, "{case}: {:?}", pngs(&out));
    }
    // The names of the images drawn by one command, as before.
    let out = dir.path().join("plain");
    calumma_in(dir.path(), &["draw", tiny(), "a ring", "a star", "--out", text(&out)]);
    let names = ["a-ring-0.png", "a-star-1.png"].map(str::to_owned);
    assert_eq!(pngs(&out), BTreeSet::from(names));
    calumma_in(
        dir.path(),
        &["generate", tiny(), "--prompt", "a ring", "--modality", "image", "--out", text(&out)],
    );
    assert_eq!(pngs(&out).len(), 3, "{:?}", pngs(&out));
}

#[test]
fn processes_that_draw_at_once_take_different_names() {
    let dir = tempfile::tempdir().unwrap();
    let start = |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calumma"));
        command.args(["--device", "cpu", "draw", tiny(), "a ring", "a ring", "--out", "o"]);
        command.current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(start).collect();
    let mut told = BTreeSet::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        told.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    assert_eq!(told.len(), 8, "{told:?}");
    assert_eq!(pngs(&dir.path().join("o")).len(), 8);
}

#[test]
fn inputs_with_the_same_name_and_earlier_outputs_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["a", "b"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
        image(&dir.path().join(folder), "x.png");
    }
    let reconstruct = ["vq", "reconstruct", tiny(), "a/x.png", "b/x.png", "--out", "r"];
    for files in [2, 4] {
        assert_eq!(calumma_in(dir.path(), &reconstruct).code, 0);
        assert_eq!(pngs(&dir.path().join("r")).len(), files);
    }
    let codes = calumma_in(dir.path(), &["vq", "encode", tiny(), "a/x.png", "b/x.png", "--json"]);
    std::fs::write(dir.path().join("c.json"), codes.stdout).unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/x-1.png"), "the user's").unwrap();
    let decode = ["vq", "decode", tiny(), "c.json", "--out", "d/x.png"];
    assert_eq!(calumma_in(dir.path(), &decode).code, 0);
    assert_eq!(std::fs::read(dir.path().join("d/x-1.png")).unwrap(), b"the user's");
    let names = ["x-1.png", "x-2.png", "x.png"].map(str::to_owned);
    assert_eq!(pngs(&dir.path().join("d")), BTreeSet::from(names));
}
