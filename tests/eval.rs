//! Measures on stand-ins for models, with scores known in advance.

mod captioning;
mod drawing;
mod reconstruction;
mod vqa;

use calumma::data::{Dataset, Fields, Sample, Unused};
use calumma::error::{Error, Result};
use calumma::eval::Extent;
use image::RgbImage;
use serde_json::{Value, json};

/// Rows in memory with a grey image each; a row that is no JSON object cannot be read.
struct Rows(Vec<Value>);

impl Dataset for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let fields: Fields = match &self.0[index] {
            Value::Object(fields) => fields.clone(),
            _ => return Err(Error::invalid(format!("row {index} is damaged"))),
        };
        let image = RgbImage::from_pixel(16, 16, image::Rgb([index as u8; 3]));
        Ok(Sample { fields, images: vec![image], source: format!("rows#{index}") })
    }

    fn unused(&self) -> Vec<Unused> {
        Vec::new()
    }

    fn name(&self) -> &str {
        "rows"
    }
}

fn questions() -> Rows {
    let row = |(question, answer): (&str, &str)| json!({"question": question, "answer": answer});
    Rows(
        [
            ("is it red?", "yes"),
            ("is it red?", "no"),
            ("is it red?", "No."),
            ("what colour?", "red"),
            ("what colour?", "blue"),
            ("what colour?", "Red"),
            ("what shape?", "circle"),
            ("how many?", "two"),
            ("where?", "top left"),
        ]
        .map(row)
        .into(),
    )
}

fn extent(batch: usize) -> Extent {
    Extent { limit: None, batch }
}
