//! Export as an image folder.

use super::scenes;
use calumma::data::scenes::{render, write_image_folder};
use serde_json::Value;

#[test]
fn image_folders_have_the_images_and_columns_of_the_data_set() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("set");
    let set = scenes("scenes:val?count=12&seed=2&size=48");
    write_image_folder(&set, &dir).unwrap();
    let lines = std::fs::read_to_string(dir.join("metadata.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 12);
    for (index, line) in lines.lines().enumerate() {
        let mut line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        let file = line.remove("file_name").unwrap();
        assert_eq!(line, set.columns(index));
        let image = image::open(dir.join(file.as_str().unwrap())).unwrap().to_rgb8();
        assert_eq!(image, render(&set.scene(index), 48));
    }
    let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn existing_directories_are_refused_and_failures_leave_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let set = scenes("scenes:val?count=2");
    let error = write_image_folder(&set, root.path()).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    assert!(write_image_folder(&set, &root.path().join("no/parent")).is_err());
    assert!(write_image_folder(&set, std::path::Path::new("/")).is_err());
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}
