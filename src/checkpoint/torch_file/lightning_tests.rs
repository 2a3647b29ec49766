//! Checkpoints of training runs (`make_lightning_fixtures.py`): weights among callbacks and settings.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::path::PathBuf;

use proptest::prelude::*;

use super::TorchFile;
use super::contents::contents;
use super::pickle::Machine;

const FILES: [&str; 4] =
    ["lightning2.ckpt", "lightning4.ckpt", "lightning5.ckpt", "lightning-quantised.ckpt"];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch").join(name)
}

/// The pickle in a file of one folder.
fn pickle(name: &str) -> Vec<u8> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(fixture(name)).unwrap()).unwrap();
    let mut bytes = Vec::new();
    zip.by_name("archive/data.pkl").unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn weights_are_read_past_callbacks_and_settings() {
    for name in &FILES[..3] {
        let file = TorchFile::open(&fixture(name)).unwrap();
        let names: Vec<_> =
            file.tensors().keys().filter_map(|name| name.strip_prefix("state_dict.")).collect();
        assert_eq!(names, ["norm.weight", "proj.weight", "scale"], "{name}");
        let values: Vec<u8> = (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect();
        assert_eq!(file.read("state_dict.proj.weight").unwrap(), values);
        assert_eq!(file.read("state_dict.scale").unwrap(), 9_f32.to_le_bytes());
        let class = |name: &str| file.object_at(name).unwrap().to_owned();
        // The class of the settings is a dict to Python, but an unknown one.
        assert!(class("hyper_parameters.args.lr").ends_with("parsing.AttributeDict"), "{name}");
        let spectrum = "callbacks.ModelCheckpoint{'monitor': 'loss'}.spectrum";
        assert_eq!(class(spectrum), "torch.ComplexFloatStorage");
        assert!(!file.objects().keys().any(|name| name.starts_with("state_dict")));
    }
}

#[test]
fn an_object_in_place_of_a_weight_is_named_when_the_weight_is_asked_for() {
    let file = TorchFile::open(&fixture(FILES[3])).unwrap();
    file.read("state_dict.norm.weight").unwrap();
    let message = file.read("state_dict.proj.weight").unwrap_err().to_string();
    let expected = "in place of tensor state_dict.proj.weight is an object of \
        bitsandbytes.nn.modules.Params4bit";
    assert!(message.contains(expected), "{message}");
    let message = file.read("hyper_parameters.config").unwrap_err().to_string();
    assert!(message.contains("an object of pytorch_lightning"), "{message}");
    let message = file.read("state_dict.other").unwrap_err().to_string();
    assert!(message.ends_with("there is no tensor state_dict.other"), "{message}");
}

/// Values that the machine holds: no more than bytes of the pickle, so that memory is bounded.
fn size(machine: &Machine<'_>) -> usize {
    let tuples = machine.tuples.iter().map(|tuple| 1 + tuple.len()).sum::<usize>();
    let lists = machine.lists.iter().map(|list| 1 + list.len()).sum::<usize>();
    let dicts = machine.dicts.iter().map(|dict| 1 + 2 * dict.items.len()).sum::<usize>();
    tuples + lists + dicts + machine.classes.len() + machine.storages.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_pickles_never_panic_and_cost_no_more_than_their_length(
        name in prop::sample::select(FILES.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        moved in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..64_usize),
    ) {
        let mut bytes = pickle(name);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (from, to, len) = moved;
        let from = from.index(bytes.len());
        let part = bytes[from..bytes.len().min(from + len)].to_vec();
        let to = to.index(bytes.len());
        bytes.splice(to..to, part);
        if let Ok(machine) = Machine::run(&bytes) {
            // A tuple of up to three values is one byte.
            prop_assert!(size(&machine) <= 4 * bytes.len());
        }
        let _ = contents(&bytes);
    }

    #[test]
    fn arbitrary_opcodes_never_panic(
        opcodes in prop::collection::vec(
            prop_oneof![
                prop::sample::select(b"(}])tdlsuaebRQcioPNK\x81\x85\x86\x87\x8f\x90\x91\x93\x94012.".to_vec()),
                any::<u8>(),
            ],
            0..200,
        ),
    ) {
        let bytes = [b"\x80\x04}ctorch._utils\n_rebuild_tensor_v2\n", &opcodes[..]].concat();
        let _ = contents(&bytes);
    }
}
