//! Reports of a run: the log, TensorBoard's files and the HTML page.

use std::path::{Path, PathBuf};

use calumma::report::{LayerExperts, Metrics, Omission, Reporter, RunRecord, SampleText, html};
use image::{Rgb, RgbImage};
use serde_json::Value;

fn reporter(dir: &Path, resumed_at: usize) -> Reporter {
    Reporter::silent().for_run(dir, resumed_at).unwrap()
}

fn loss(value: f64) -> Metrics {
    vec![("loss".into(), value)]
}

fn sample(generated: &str) -> SampleText {
    SampleText {
        source: "scenes".into(),
        prompt: "how many?".into(),
        target: "three".into(),
        generated: generated.into(),
    }
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn steps_and_kinds(lines: &[Value]) -> Vec<(u64, &str)> {
    lines.iter().map(|l| (l["step"].as_u64().unwrap(), l["kind"].as_str().unwrap())).collect()
}

/// A run with two evaluations.
fn run(dir: &Path) -> Reporter {
    let mut reporter = reporter(dir, 0);
    for step in 1..=4 {
        reporter.metrics(step, "train", &loss(1.0 / step as f64)).unwrap();
        if step.is_multiple_of(2) {
            reporter.metrics(step, "eval", &vec![("psnr".into(), 20.0 + step as f64)]).unwrap();
            reporter
                .samples(step, &[sample(&format!("answer {step} <script>x</script>"))])
                .unwrap();
            reporter.image(step, &RgbImage::from_pixel(5, 3, Rgb([9, 8, 7]))).unwrap();
        }
    }
    reporter.event(4, "skipped", "a loss & more").unwrap();
    reporter
}

#[test]
fn a_rewound_run_drops_later_lines_and_keeps_events() {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = run(dir.path());
    reporter.rewind(2).unwrap();
    reporter.event(2, "rewound", "from step 4").unwrap();
    reporter.metrics(3, "train", &loss(0.5)).unwrap();
    let lines = lines(dir.path());
    let expected = [
        (1, "train"),
        (2, "train"),
        (2, "eval"),
        (2, "samples"),
        (4, "event"),
        (2, "event"),
        (3, "train"),
    ];
    assert_eq!(steps_and_kinds(&lines), expected);
    let elapsed: Vec<f64> = lines.iter().map(|l| l["elapsed_s"].as_f64().unwrap()).collect();
    assert!(elapsed.is_sorted(), "{elapsed:?}");
    // The image of step 4 is on disk, but the run has not reached that step again.
    let steps: Vec<u64> =
        RunRecord::read(dir.path()).unwrap().evaluations.iter().map(|e| e.step).collect();
    assert_eq!(steps, [2]);
}

#[test]
fn a_resumed_run_continues_its_clock_and_drops_repeated_steps() {
    let dir = tempfile::tempdir().unwrap();
    let log = r#"{"step":1,"kind":"train","elapsed_s":100.5,"loss":0.30000000000000004}
{"step":2,"kind":"train","elapsed_s":200.0,"loss":1}
{"step":3,"kind":"train","elapsed_s":300.0,"loss":1}
{"step":3,"kind":"eval","elapsed_s":3"#;
    std::fs::write(dir.path().join("metrics.jsonl"), log).unwrap();
    let mut reporter = reporter(dir.path(), 2);
    reporter.metrics(3, "train", &loss(0.5)).unwrap();
    let lines = lines(dir.path());
    assert_eq!(steps_and_kinds(&lines), [(1, "train"), (2, "train"), (3, "train")]);
    assert!((200.0..260.0).contains(&lines[2]["elapsed_s"].as_f64().unwrap()));
    let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    assert!(text.starts_with(log.lines().next().unwrap()), "kept lines are unchanged");
    if cfg!(target_os = "linux") {
        assert!(lines[2]["memory_bytes"].as_u64().unwrap() > 1 << 20);
    }
}

#[test]
fn a_log_truncated_within_a_character_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = b"{\"step\":1,\"kind\":\"eval\",\"psnr\":7.5}\n{\"step\":2,\"kind\":\"event\",\"text\":\"\xc3";
    std::fs::write(dir.path().join("metrics.jsonl"), log).unwrap();
    let record = RunRecord::read(dir.path()).unwrap();
    assert_eq!((record.step, record.events.len()), (1, 0));
    reporter(dir.path(), 1);
    assert_eq!(steps_and_kinds(&lines(dir.path())), [(1, "eval")]);
}

#[test]
fn the_page_contains_everything_reported_and_escapes_markup() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("a <script>alert(1)</script>".replace('/', "|"));
    let mut reporter = run(&run_dir);
    reporter.metrics(4, "eval", &vec![("a\"b<script>".into(), 3.25)]).unwrap();
    std::fs::write(run_dir.join("recipe.toml"), "name = \"<script>\"\nsteps = 4\n").unwrap();
    let environment = r#"{"device": "cpu <script>", "build": {"commit": "abc", "dirty": null}}"#;
    std::fs::write(run_dir.join("environment.json"), environment).unwrap();
    reporter.write_report();
    let page = std::fs::read_to_string(run_dir.join("report.html")).unwrap();
    for text in [
        "a &lt;script&gt;alert(1)",
        "aria-label=\"a&quot;b&lt;script&gt;\"",
        "answer 2 &lt;script&gt;x",
        "answer 4 &lt;script&gt;x",
        "how many?",
        "<b>skipped</b> a loss &amp; more",
        "src=\"samples/step-0000002.png\"",
        "src=\"samples/step-0000004.png\"",
        "cpu &lt;script&gt;",
        "<dt>build.commit</dt><dd>abc</dd>",
        "steps = 4",
        "<td>24</td>",
        "<td>22</td>",
        "<td>3.250</td>",
        ">loss</b>",
        ">psnr</b>",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<script") && !page.contains("http"));
    assert!(page.find("answer 4") < page.find("answer 2"), "the newest comes first");
    assert_eq!(page, html::render(&RunRecord::read(&run_dir).unwrap()));
}

#[test]
fn what_was_left_out_is_logged_and_the_page_shows_the_last_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = reporter(dir.path(), 0);
    let left_out = |count: u64| Omission {
        source: "d.jsonl".into(),
        kind: "bad samples".into(),
        count,
        of: Some(10),
        text: format!("{count} of 10 samples are bad"),
        examples: vec!["line 1: </td><script>".into(), "line 7: broken".into()],
    };
    for step in [1, 2, 3] {
        reporter.metrics(step, "train", &loss(1.0)).unwrap();
        reporter.left_out(step, &[left_out(step as u64)]).unwrap();
    }
    reporter.rewind(2).unwrap();
    reporter.write_report();
    let record = RunRecord::read(dir.path()).unwrap();
    assert_eq!(record.left_out, [left_out(2)], "that of step 3 was dropped with it");
    assert_eq!(lines(dir.path()).last().unwrap()["left_out"][0]["count"], 2);
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    for text in ["<h2>Left out</h2>", "2 of 10 samples are bad", "line 1: &lt;/td&gt;", "line 7"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn a_failing_report_does_not_end_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let reporter = run(dir.path());
    std::fs::write(dir.path().join("environment.json"), "{").unwrap();
    reporter.write_report();
    assert!(!dir.path().join("report.html").exists());
}

#[test]
fn an_empty_run_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let page = html::render(&RunRecord::read(dir.path()).unwrap());
    assert!(page.ends_with("</html>\n"));
}

#[test]
fn tensorboard_files_contain_everything_reported_and_purge_repeated_steps() {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = run(dir.path());
    reporter.rewind(2).unwrap();
    reporter.metrics(3, "train", &loss(0.25)).unwrap();
    let files = event_files(dir.path());
    let [first, second] = &files[..] else { panic!("{files:?}") };

    let events = events(first);
    assert_eq!(events[0].bytes(3), b"brain.Event:2");
    assert_eq!(events[1].message(7).varint(1), 1);
    assert_eq!(events[1].varint(2), 1);
    let mut values = Vec::new();
    for event in &events[2..] {
        let summary = event.message(5);
        values.extend(summary.all(1).map(|value| (event.varint(2), Message::of(value))));
    }
    let find = |step: u64, tag: &str| {
        let is = |(at, value): &&(u64, Message)| *at == step && value.bytes(1) == tag.as_bytes();
        &values.iter().find(is).unwrap_or_else(|| panic!("{tag}")).1
    };
    assert_eq!(find(4, "train/loss").float(2), 0.25);
    assert_eq!(find(2, "eval/psnr").float(2), 22.0);
    assert!(find(1, "train/items_per_s").float(2) >= 0.0);

    let image = find(4, "eval/image").message(4);
    assert_eq!([1, 2, 3].map(|field| image.varint(field)), [3, 5, 3]);
    let png = std::fs::read(dir.path().join("samples/step-0000004.png")).unwrap();
    assert_eq!(image.bytes(4), png);

    let text = find(2, "eval/samples");
    assert_eq!(text.message(9).message(1).bytes(1), b"text");
    let tensor = text.message(8);
    assert_eq!(tensor.varint(1), 7);
    let shape: Vec<u64> = tensor.message(2).all(2).map(|dim| Message::of(dim).varint(1)).collect();
    assert_eq!(shape, [2, 4]);
    let cells: Vec<&[u8]> = tensor.all(8).collect();
    assert_eq!(cells[3..7], [&b"generated"[..], b"scenes", b"how many?", b"three"]);

    let events = self::events(second);
    assert_eq!(events[1].message(7).varint(1), 1);
    assert_eq!(events[1].varint(2), 3);
}

fn event_files(run: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run.join("tensorboard")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = files[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("events.out.tfevents."), "{name}");
    files
}

/// The events of a file, after checking their checksums.
fn events(path: &Path) -> Vec<Message> {
    let bytes = std::fs::read(path).unwrap();
    let (mut rest, mut events) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (header, tail) = rest.split_at(12);
        let len = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
        assert_eq!(header[8..], masked_crc32c(&header[..8]).to_le_bytes());
        let (data, tail) = tail.split_at(len);
        assert_eq!(tail[..4], masked_crc32c(data).to_le_bytes());
        events.push(Message::of(data));
        rest = &tail[4..];
    }
    events
}

/// The masked CRC-32C, bit by bit with the reflected polynomial.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer: field numbers with their bytes.
struct Message(Vec<(u64, Vec<u8>)>);

impl Message {
    fn of(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => varint(&mut bytes).to_le_bytes().to_vec(),
                1 => bytes.split_off(..8).unwrap().to_vec(),
                2 => {
                    let len = varint(&mut bytes) as usize;
                    bytes.split_off(..len).unwrap().to_vec()
                }
                5 => bytes.split_off(..4).unwrap().to_vec(),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, value));
        }
        Self(fields)
    }

    fn all(&self, field: u64) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(known, _)| *known == field).map(|(_, value)| value.as_slice())
    }

    fn bytes(&self, field: u64) -> &[u8] {
        self.all(field).next().unwrap_or_default()
    }

    fn message(&self, field: u64) -> Self {
        Self::of(self.bytes(field))
    }

    fn varint(&self, field: u64) -> u64 {
        self.all(field).next().map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()))
    }

    fn float(&self, field: u64) -> f32 {
        f32::from_le_bytes(self.bytes(field).try_into().unwrap())
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = *bytes.split_off_first().unwrap();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

#[test]
fn experts_are_in_log_report_and_tensorboard() {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = reporter(dir.path(), 0);
    let layer = |layer: usize, load: f64| LayerExperts {
        layer,
        loads: vec![load, 2.0 - load],
        image_shares: vec![Some(0.25), None],
        measures: [("load_max".to_owned(), load)].into(),
    };
    reporter.experts(1, &[layer(1, 1.0)]).unwrap();
    reporter.experts(2, &[layer(1, 1.5), layer(3, 2.0)]).unwrap();
    reporter.experts(2, &[]).unwrap();
    let lines = lines(dir.path());
    assert_eq!(steps_and_kinds(&lines), [(1, "experts"), (2, "experts")]);
    assert_eq!(lines[1]["experts"][1]["loads"][0], 2.0);
    assert_eq!(lines[1]["experts"][1]["image_shares"][1], Value::Null);

    let record = RunRecord::read(dir.path()).unwrap();
    assert_eq!(record.experts, Some((2, vec![layer(1, 1.5), layer(3, 2.0)])));
    let page = html::render(&record);
    assert_eq!(
        page.matches("<rect class=\"heat\"").count(),
        8,
        "two maps, two layers, two experts"
    );
    assert!(page.contains("layer 3, expert 0: 2 of the mean load"));
    assert!(page.contains("layer 1, expert 1: no tokens") && page.contains("<th>load max</th>"));

    let files = std::fs::read_dir(dir.path().join("tensorboard")).unwrap();
    let events: Vec<u8> =
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    let tag = b"experts/layer_03/load_max";
    assert!(events.windows(tag.len()).any(|window| window == tag));
}
