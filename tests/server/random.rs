//! Bodies changed at random: read or refused, never a panic. `fuzz/` does the same for longer, guided by coverage.

use calumma::server::{Limits, check_body, check_image};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::bodies::{choice, many_images, png, tool, with_calls, with_image, with_parts};

fn bodies() -> Vec<(&'static str, String)> {
    let image = png(&image::RgbImage::new(3, 2));
    let settings = json!({
        "prompt": ["a", "b"], "temperature": 0.5, "top_k": -1, "seed": -7, "stop": ["x"], "n": 2,
        "logprobs": 3, "structured_outputs": {},
    });
    vec![
        ("/v1/chat/completions", with_image(&image).to_string()),
        ("/v1/chat/completions", with_parts("assistant", &[0])),
        ("/v1/chat/completions", with_calls("{\"a\": [1]}", &["1"])),
        (
            "/v1/chat/completions",
            json!({ "messages": [], "tools": [tool("a")], "tool_choice": choice("a") }).to_string(),
        ),
        ("/tokenize", many_images(3)),
        ("/v1/completions", settings.to_string()),
        ("/v1/images/generations", json!({ "prompt": "a", "size": "64x64" }).to_string()),
        ("/detokenize", json!({ "tokens": [1, 2, 3] }).to_string()),
    ]
}

/// A value of any kind.
fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!([[], {}])),
        Just(json!({ "url": "data:image/png;base64,AQI=" })),
    ]
}

/// The places in `value` that can be replaced.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(places).sum(),
        Value::Object(object) => object.values().map(places).sum(),
        _ => 0,
    }
}

/// Replaces the place with the number `at`.
fn replace(value: &mut Value, at: &mut usize, by: &Value) {
    if *at == 0 {
        value.clone_from(by);
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| replace(value, at, by)),
        Value::Object(object) => object.values_mut().for_each(|value| replace(value, at, by)),
        _ => {}
    }
}

#[test]
fn bodies_of_requests_are_taken_unchanged() {
    for (route, body) in bodies() {
        check_body(route, body.as_bytes(), &Limits::default()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_bodies_are_read_or_refused(
        which in 0..6_usize,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
    ) {
        let (route, body) = bodies().swap_remove(which);
        let mut bytes = body.into_bytes();
        for (at, byte) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        let _ = check_body(route, &bytes, &Limits::default());
    }

    #[test]
    fn fields_of_any_kind_are_read_or_refused(
        which in 0..6_usize,
        at in any::<prop::sample::Index>(),
        by in anything(),
    ) {
        let (route, body) = bodies().swap_remove(which);
        let mut value: Value = serde_json::from_str(&body).unwrap();
        let mut at = at.index(places(&value));
        replace(&mut value, &mut at, &by);
        let _ = check_body(route, value.to_string().as_bytes(), &Limits::default());
    }

    #[test]
    fn changed_addresses_of_images_are_read_or_refused(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut address: Vec<char> = png(&image::RgbImage::new(5, 4)).chars().collect();
        for (at, by) in cuts {
            let at = at.index(address.len());
            address[at] = by;
        }
        address.truncate(end.index(address.len()) + 1);
        let address: String = address.into_iter().collect();
        let _ = check_image(&address, &Limits::default());
    }
}
