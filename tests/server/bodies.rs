//! Bodies of requests, those that hurt among them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A message with one image at `url`.
pub fn with_image(url: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": [
        { "type": "image_url", "image_url": { "url": url } },
        { "type": "text", "text": "what color is the circle?" },
    ] }] })
}

/// A conversation in which a message of `role` has one image, and places for the images with these numbers.
pub fn with_parts(role: &str, places: &[usize]) -> String {
    let image =
        json!({ "type": "image_url", "image_url": { "url": png(&image::RgbImage::new(1, 1)) } });
    let place = |index: &usize| json!({ "type": "image", "index": index });
    let mut places: Vec<Value> = places.iter().map(place).collect();
    places.push(json!({ "type": "text", "text": "b" }));
    let message = json!({ "role": role, "content": "b", "images": [image], "x_parts": places });
    let user = json!({ "role": "user", "content": "a" });
    json!({ "messages": [user, message, user] }).to_string()
}

/// A message with so many images of one pixel.
pub fn many_images(count: usize) -> String {
    let part =
        json!({ "type": "image_url", "image_url": { "url": png(&image::RgbImage::new(1, 1)) } });
    json!({ "messages": [{ "role": "user", "content": vec![part; count] }] }).to_string()
}

pub fn png(image: &image::RgbImage) -> String {
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    format!("data:image/png;base64,{}", STANDARD.encode(png.into_inner()))
}

/// A PNG file of one pixel that claims to be 60,000 pixels wide and high.
pub fn bomb() -> String {
    let whole = png(&image::RgbImage::new(1, 1));
    let mut png = STANDARD.decode(whole.split_once(',').unwrap().1).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let mut sum = flate2::Crc::new();
    sum.update(&png[12..29]); // the name and the content of IHDR
    png[29..33].copy_from_slice(&sum.sum().to_be_bytes());
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// A function without arguments.
pub fn tool(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name, "strict": true } })
}

pub fn choice(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name } })
}

/// A conversation in which an answer calls `a` with `arguments` as call 1, followed by results of the calls `results`.
pub fn with_calls(arguments: &str, results: &[&str]) -> String {
    let function = json!({ "name": "a", "arguments": arguments });
    let call = json!({ "id": "1", "type": "function", "function": function });
    let mut messages = vec![
        json!({ "role": "user", "content": "what?" }),
        json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
    ];
    messages.extend(results.iter().map(
        |id| json!({ "role": "tool", "tool_call_id": id, "content": format!("result {id}") }),
    ));
    json!({ "messages": messages }).to_string()
}
