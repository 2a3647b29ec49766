//! Token shards of URLs: fetched once, in order, in full or not at all; an error without the feature.

use calumma::data::open;
use calumma::data::shards::{TokenShards, is_spec};

#[test]
fn urls_of_object_stores_can_be_token_shards_only() {
    for url in ["s3://bucket/prefix/", "gs://bucket/a.safetensors", "az://c", "file:///data/"] {
        assert!(is_spec(url), "{url}");
        let message = open(url).err().unwrap().to_string();
        assert!(message.contains(url) && message.contains("token shards only"), "{message}");
    }
    assert!(!is_spec("bucket/s3"));
    assert!(!is_spec("https://example.org/"));
}

#[cfg(not(feature = "object_store"))]
#[test]
fn a_build_without_object_stores_names_the_feature() {
    let dir = tempfile::tempdir().unwrap();
    let error = TokenShards::open("s3://bucket/prefix/", "", dir.path(), true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data s3://bucket/prefix/: needs a build with --features object_store"
    );
    assert_eq!(error.exit_code(), 3);
}

#[cfg(feature = "object_store")]
mod fetched {
    use std::collections::BTreeMap;
    use std::fs::{File, create_dir_all, read, read_dir, remove_file, write};
    use std::path::PathBuf;

    use calumma::data::shards::ShardContent;
    use calumma::tokenize::TokenSequence;

    use super::*;

    const TOKENIZER: &str = "0123456789abcdef";

    /// A shard of one document with `ids`, all of them targets.
    fn shard(ids: &[u32]) -> Vec<u8> {
        let tokens = TokenSequence { ids: ids.to_vec(), loss_mask: vec![true; ids.len()] };
        let content = ShardContent {
            tokenizer: TOKENIZER.to_owned(),
            made_of: String::new(),
            sources: vec!["scenes".to_owned()],
            documents: vec![(tokens, 0)],
        };
        content.to_bytes().unwrap()
    }

    /// A directory in place of a bucket, and one for the cache.
    struct Bucket {
        dir: tempfile::TempDir,
    }

    impl Bucket {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            create_dir_all(dir.path().join("bucket/to kens/below")).unwrap();
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("bucket/to kens").join(name)
        }

        fn url(&self, name: &str) -> String {
            format!("file://{}/bucket/to%20kens/{name}", self.dir.path().display())
        }

        fn open(&self, name: &str) -> calumma::Result<Vec<Vec<u32>>> {
            let cache = self.dir.path().join("cache");
            let shards = TokenShards::open(&self.url(name), TOKENIZER, &cache, true)?;
            (0..shards.len()).map(|index| Ok(shards.get(index)?.0.ids)).collect()
        }

        /// The files in the cache by name.
        fn cached(&self) -> BTreeMap<String, Vec<u8>> {
            let mut found = BTreeMap::new();
            for dir in read_dir(self.dir.path().join("cache")).unwrap() {
                for file in read_dir(dir.unwrap().path()).unwrap() {
                    let path = file.unwrap().path();
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    found.insert(name, read(path).unwrap());
                }
            }
            found
        }
    }

    #[test]
    fn a_prefix_gives_its_shards_sorted_by_name() {
        let bucket = Bucket::new();
        write(bucket.path("b.safetensors"), shard(&[2, 2])).unwrap();
        write(bucket.path("below/c.safetensors"), shard(&[3])).unwrap();
        write(bucket.path("a.safetensors"), shard(&[1])).unwrap();
        write(bucket.path("README.md"), "no shard").unwrap();
        let all = vec![vec![1], vec![2, 2], vec![3]];
        assert_eq!(bucket.open("").unwrap(), all);
        assert_eq!(bucket.open("b.safetensors").unwrap(), all[1..2]);
        let names: Vec<String> = bucket.cached().into_keys().collect();
        let has_prefix = |(name, prefix): (&String, &str)| name.starts_with(prefix);
        assert_eq!(names.len(), 3);
        assert!(names.iter().zip(["a-", "b-", "c-"]).all(has_prefix), "{names:?}");
    }

    #[test]
    fn a_shard_is_fetched_once_and_again_when_it_changes() {
        let bucket = Bucket::new();
        let path = bucket.path("a.safetensors");
        write(&path, shard(&[1, 2, 3])).unwrap();
        assert_eq!(bucket.open("").unwrap(), [[1, 2, 3]]);
        let cached = bucket.cached();

        // A second fetch would fail: the same size and time, but other bytes.
        let time = path.metadata().unwrap().modified().unwrap();
        let size = read(&path).unwrap().len();
        write(&path, vec![0; size]).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(bucket.open("").unwrap(), [[1, 2, 3]]);
        assert_eq!(bucket.cached(), cached);

        write(&path, shard(&[4, 5, 6, 7])).unwrap();
        assert_eq!(bucket.open("").unwrap(), [[4, 5, 6, 7]]);
    }

    #[test]
    fn a_damaged_shard_is_an_error_and_not_kept() {
        let bucket = Bucket::new();
        let whole = shard(&[1, 2, 3]);
        write(bucket.path("a.safetensors"), &whole).unwrap();
        let path = bucket.path("b.safetensors");
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [flipped.as_slice(), &whole[..whole.len() - 9], b"", b"tensors"] {
            write(&path, damaged).unwrap();
            let error = bucket.open("").unwrap_err();
            let message = error.to_string();
            assert!(message.contains(&bucket.url("")), "{message}");
            assert!(message.contains("b.safetensors"), "{message}");
            assert_eq!(error.exit_code(), 3);
            let names: Vec<String> = bucket.cached().into_keys().collect();
            assert!(names.len() == 1 && names[0].starts_with("a-"), "{names:?}");
        }
        write(&path, shard(&[9])).unwrap();
        assert_eq!(bucket.open("").unwrap(), [vec![1, 2, 3], vec![9]]);
    }

    #[test]
    fn a_missing_shard_or_one_of_another_tokenizer_is_named() {
        let bucket = Bucket::new();
        for (name, expected) in [
            ("nowhere/", "there is no *.safetensors below it"),
            ("below/", "there is no *.safetensors below it"),
            ("below/x.safetensors", "not found"),
        ] {
            let error = bucket.open(name).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with(&format!("data {}: ", bucket.url(name))), "{message}");
            assert!(message.contains(expected), "{message}");
            assert_eq!(error.exit_code(), 3);
        }
        write(bucket.path("a.safetensors"), shard(&[1])).unwrap();
        let cache = bucket.dir.path().join("cache");
        let refused = TokenShards::open(&bucket.url(""), "another", &cache, true).unwrap_err();
        let message = refused.to_string();
        assert!(message.contains("made with the tokenizer 0123456789abcdef"), "{message}");
        for url in ["s3://", "az:///", "file://host/path/"] {
            let message = TokenShards::open(url, TOKENIZER, &cache, true).unwrap_err().to_string();
            assert!(message.starts_with(&format!("data {url}: ")), "{message}");
        }
        remove_file(bucket.path("a.safetensors")).unwrap();
        assert!(bucket.open("").is_err(), "the cache alone does not list the shards");
    }
}
