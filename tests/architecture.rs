//! The dependency rules of docs/architecture.md, checked on the sources.
//!
//! The sources are read as text: `use` declarations and paths in code name modules, re-exports are
//! followed to the file that defines a name, unit tests are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

/// Where the workspace's crates have their sources.
const CRATES: [&str; 3] = ["src", "tensor_files/src", "vq_tokenizer/src"];

/// A crate's modules by their path: `["model", "rope"]` for `src/model/rope.rs`.
struct Crate {
    modules: BTreeMap<Vec<String>, Source>,
}

struct Source {
    /// Relative to the workspace, with `/`.
    file: String,
    /// Without comments and unit tests.
    code: String,
    uses: Vec<Use>,
}

/// One name that a `use` declaration brings into a module.
#[derive(Clone)]
struct Use {
    reexported: bool,
    path: Vec<String>,
    /// The name in the module; `*` for a glob.
    name: String,
}

impl Crate {
    fn read(root: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let modules = rust_files(&dir).into_iter().filter_map(|path| {
            let relative = path.strip_prefix(&dir).unwrap().to_str().unwrap().replace('\\', "/");
            let mut module: Vec<_> =
                relative.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            match module.last().unwrap().as_str() {
                // The binary's modules hang on the library's root here, which no file imports.
                "main" => return None,
                "mod" | "lib" => _ = module.pop(),
                _ => {}
            }
            let code = code_alone(&std::fs::read_to_string(&path).unwrap());
            let uses = uses(&code);
            Some((module, Source { file: format!("{root}/{relative}"), code, uses }))
        });
        Self { modules: modules.collect() }
    }

    /// The module path that `path` means in `module`, names below it included; `None` for other crates.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => module.to_vec(),
            child => {
                let child: Vec<_> = module.iter().cloned().chain([child.to_owned()]).collect();
                self.modules.get(&child)?;
                return Some(module.iter().chain(path).cloned().collect());
            }
        };
        if first == "super" {
            base.pop();
        }
        for name in rest {
            match name.as_str() {
                "super" => _ = base.pop(),
                "self" => {}
                _ => base.push(name.clone()),
            }
        }
        Some(base)
    }

    /// The file that defines what `path` means in `module`.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<&str> {
        let absolute = self.absolute(module, path)?;
        let (found, source) = (0..=absolute.len())
            .rev()
            .find_map(|len| self.modules.get_key_value(&absolute[..len]))?;
        let names = &absolute[found.len()..];
        let reexport = source.uses.iter().find(|item| names.first() == Some(&item.name));
        if let Some(item) = reexport
            && depth < 8
            && (found != module || depth > 0)
        {
            let path: Vec<_> = item.path.iter().chain(&names[1..]).cloned().collect();
            return self.resolve(found, &path, depth + 1).or(Some(&source.file));
        }
        Some(&source.file)
    }

    /// For every file the files that its own code needs. A re-export alone is no need.
    fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let in_code = Regex::new(r"(?:^|[^\w:])([a-z_]\w*(?:::\w+)+)").unwrap();
        let declaration = Regex::new(r"\buse\s[^;]*;").unwrap();
        let mut imports = BTreeMap::new();
        for (module, source) in &self.modules {
            let used = source.uses.iter().filter(|item| !item.reexported);
            let mut paths: Vec<Vec<String>> = used.map(|item| item.path.clone()).collect();
            let code = declaration.replace_all(&source.code, "");
            paths.extend(in_code.captures_iter(&code).map(|found| segments(&found[1])));
            let files = paths.iter().filter_map(|path| self.resolve(module, path, 0));
            let files = files.filter(|file| *file != source.file).collect();
            imports.insert(source.file.as_str(), files);
        }
        imports
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `text` without comments and without what is compiled for unit tests.
fn code_alone(text: &str) -> String {
    let attributes = r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*";
    let inline_tests = Regex::new(&format!(r"(?s){attributes}mod \w+ \{{.*")).unwrap();
    let test_items = Regex::new(&format!(r"{attributes}(?:pub(?:\([^)]*\))? )?(?:use|mod) [^;]*;"));
    let code = Regex::new(r"//[^\n]*").unwrap().replace_all(text, "");
    let code = inline_tests.replace_all(&code, "");
    test_items.unwrap().replace_all(&code, "").into_owned()
}

fn uses(code: &str) -> Vec<Use> {
    let declaration = Regex::new(r"(pub(?:\([^)]*\))?\s+)?\buse\s+([^;]*);").unwrap();
    let mut uses = Vec::new();
    for found in declaration.captures_iter(code) {
        let reexported = found.get(1).is_some();
        for path in expand("", &found[2]) {
            let (path, alias) = path.split_once(" as ").unwrap_or((path.as_str(), ""));
            let path = segments(path);
            let last = path.iter().rev().find(|name| *name != "self").cloned().unwrap_or_default();
            let name = if alias.is_empty() { last } else { alias.trim().to_owned() };
            uses.push(Use { reexported, path, name });
        }
    }
    uses
}

/// The single paths of a `use` tree: `a::{b, c::{d, e}}` gives `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        return if tree.is_empty() { Vec::new() } else { vec![format!("{prefix}{tree}")] };
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let (mut depth, mut start, mut paths) = (0, open + 1, Vec::new());
    for (at, character) in tree.char_indices().skip(open) {
        match character {
            '{' => depth += 1,
            ',' if depth == 1 => {
                paths.extend(expand(&prefix, &tree[start..at]));
                start = at + 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 {
                    paths.extend(expand(&prefix, &tree[start..at]));
                }
            }
            _ => {}
        }
    }
    paths
}

fn segments(path: &str) -> Vec<String> {
    path.trim().split("::").map(|name| name.trim().to_owned()).collect()
}

/// Groups of files that reach each other through imports.
fn circles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<Vec<&'a str>> {
    let reached = |from: &'a str| {
        let (mut reached, mut waiting) = (BTreeSet::new(), vec![from]);
        while let Some(file) = waiting.pop() {
            let next = imports.get(file).into_iter().flatten();
            waiting.extend(next.filter(|file| reached.insert(**file)));
        }
        reached
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|file| (*file, reached(file))).collect();
    let circle = |file: &'a str| -> Vec<&'a str> {
        reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect()
    };
    imports.keys().map(|file| circle(file)).filter(|circle| !circle.is_empty()).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for root in CRATES {
        let sources = Crate::read(root);
        let found = circles(&sources.imports());
        assert!(found.is_empty(), "files that import each other: {found:#?}");
    }
}

#[test]
fn circles_are_found_through_reexports() {
    let source = |file: &str, code: &str| {
        let code = code_alone(code);
        let uses = uses(&code);
        Source { file: file.to_owned(), code, uses }
    };
    let module = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let with = |first: &str, second: &str| Crate {
        modules: BTreeMap::from([
            (Vec::new(), source("lib.rs", "mod a;")),
            (module("a"), source("a/mod.rs", "mod b; mod c; pub use b::{B, One}; use self::c::C;")),
            (module("a/b"), source("a/b.rs", first)),
            (module("a/c"), source("a/c.rs", second)),
        ]),
    };
    let open = with("use super::c::C; pub struct B;", "pub struct C; // super::B");
    assert!(circles(&open.imports()).is_empty());
    let closed = with("use super::c::C; pub struct B;", "use super::{B as Other}; pub struct C;");
    let found = circles(&closed.imports());
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [["a/b.rs", "a/c.rs"]]);
    let in_code = with("fn f() { crate::a::c::g() }", "fn g() -> super::One { super::b::f() }");
    assert_eq!(circles(&in_code.imports()).len(), 1);
    let tests = with("use super::c::C;", "#[cfg(test)]\nmod tests { use super::super::b::B; }");
    assert!(circles(&tests.imports()).is_empty());
}

/// Files whose code matches `pattern`, but for those below `allowed`.
fn matching(pattern: &str, allowed: &[&str]) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let sources = CRATES.map(Crate::read);
    let sources = sources.iter().flat_map(|sources| sources.modules.values());
    let broken = sources.filter(|source| {
        !allowed.iter().any(|start| source.file.starts_with(start))
            && pattern.is_match(&source.code)
    });
    broken.map(|source| source.file.clone()).collect()
}

#[test]
fn only_named_places_know_cargo_features() {
    let allowed = [
        "src/cli/",
        "src/data/shards/remote.rs",
        "src/device",
        "src/generate/grammar/mod.rs",
        "src/lib.rs",
        "src/model/ops/choice.rs",
        "src/model/ops/experts.rs",
        "src/model/ops/fused/", // which backends an extension has is an argument of Burn's macro
        "src/model/ops/latent.rs",
        "src/model/ops/mod.rs",
        "src/server/remote/mod.rs",
        "vq_tokenizer/src/lib.rs",
        "vq_tokenizer/src/ops/fused.rs", // as above
        "vq_tokenizer/src/ops/mod.rs",
    ];
    let found = matching(r"cfg!?\([^\n]*feature", &allowed);
    assert!(found.is_empty(), "features outside of {allowed:?}: {found:?}");
}

#[test]
fn the_model_imports_burn_itself_and_the_error_type() {
    let sources = Crate::read("src");
    for (file, needed) in sources.imports() {
        let inside = |file: &str| file.starts_with("src/model/") || file == "src/error.rs";
        let outside = needed.iter().find(|needed| !inside(needed));
        if file.starts_with("src/model/") {
            assert_eq!(outside, None, "{file} imports it");
        }
    }
}

#[test]
fn training_and_generation_know_no_scores() {
    let sources = Crate::read("src");
    for (file, needed) in sources.imports() {
        let below =
            ["src/train/", "src/generate/", "src/data/", "src/checkpoint/", "src/tokenize/"];
        if below.iter().any(|room| file.starts_with(room)) {
            let above = ["src/eval/", "src/pipeline", "src/cli/"];
            let found = needed.iter().find(|file| above.iter().any(|room| file.starts_with(room)));
            assert_eq!(found, None, "{file} imports it");
        }
    }
}

/// All Rust files of `folders`, by their paths.
fn texts(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = folders.iter().flat_map(|folder| rust_files(&root.join(folder)));
    let read =
        |path: PathBuf| (path.display().to_string(), std::fs::read_to_string(&path).unwrap());
    files.map(read).collect()
}

#[test]
fn no_file_is_longer_than_400_lines() {
    let folders = ["src", "tensor_files", "vq_tokenizer", "tests", "examples", "benches"];
    for (path, text) in texts(&folders) {
        let lines = text.lines().count();
        assert!(lines <= 400, "{path} has {lines} lines");
    }
}

/// Burn's generator is one for all threads of a process, so that a test cannot seed it.
#[test]
fn tests_draw_random_numbers_from_the_generator_of_their_thread() {
    let pattern = Regex::new(r"Tensor(::<\d>)?::random\(").unwrap();
    for (path, text) in texts(&["src", "tensor_files", "vq_tokenizer", "tests"]) {
        let draws = pattern.is_match(&text) && !path.ends_with("src/device/speed.rs");
        assert!(!draws, "{path}: `vq_tokenizer::init::random` in place of `Tensor::random`");
    }
}
