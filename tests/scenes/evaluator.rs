//! Independent evaluator: parses captions and questions as English and checks them against the
//! ground truth in JSON. It shares no code and no constants with the library.

use serde_json::Value;

const SHAPES: [&str; 8] =
    ["circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring"];
const COLORS: [&str; 8] = ["red", "green", "blue", "yellow", "orange", "purple", "black", "pink"];
const SIZES: [&str; 3] = ["small", "medium", "large"];
const TINTS: [&str; 4] = ["white", "gray", "cream", "light blue"];
const RELATIONS: [(&str, [i64; 2]); 8] = [
    (" to the left of ", [-1, 0]),
    (" to the right of ", [1, 0]),
    (" left of ", [-1, 0]),
    (" right of ", [1, 0]),
    (" above ", [0, -1]),
    (" over ", [0, -1]),
    (" below ", [0, 1]),
    (" under ", [0, 1]),
];

/// Noun phrase: the number (`None` for "the" or no article) and the required attributes.
struct Phrase {
    number: Option<usize>,
    attributes: Vec<(&'static str, String)>,
}

fn phrase(text: &str) -> Result<Phrase, String> {
    let mut read = Phrase { number: None, attributes: Vec::new() };
    for (i, word) in text.split(' ').enumerate() {
        let noun = match word {
            "crosses" => "cross",
            _ => word.strip_suffix('s').unwrap_or(word),
        };
        match word {
            "a" | "an" | "the" if i > 0 => return Err(format!("article inside {text:?}")),
            "a" | "an" => read.number = Some(1),
            "two" => read.number = Some(2),
            "three" => read.number = Some(3),
            "four" => read.number = Some(4),
            "the" | "object" | "objects" => {}
            _ if SIZES.contains(&word) => read.attributes.push(("size", word.to_owned())),
            _ if COLORS.contains(&word) => read.attributes.push(("color", word.to_owned())),
            _ if SHAPES.contains(&word) => read.attributes.push(("shape", word.to_owned())),
            _ if SHAPES.contains(&noun) => read.attributes.push(("shape", noun.to_owned())),
            _ => return Err(format!("unknown word {word:?} in {text:?}")),
        }
    }
    Ok(read)
}

impl Phrase {
    fn among<'a>(&self, scene: &'a Value) -> Vec<&'a Value> {
        let fits = |object: &&Value| self.attributes.iter().all(|(key, is)| object[*key] == **is);
        scene["objects"].as_array().unwrap().iter().filter(fits).collect()
    }
}

fn count(text: &str, scene: &Value) -> Result<usize, String> {
    Ok(phrase(text)?.among(scene).len())
}

/// The only object that "the ..." can refer to.
fn the<'a>(text: &str, scene: &'a Value) -> Result<&'a Value, String> {
    match phrase(text)?.among(scene)[..] {
        [only] => Ok(only),
        ref found => Err(format!("{text:?} refers to {} objects", found.len())),
    }
}

fn at(object: &Value) -> [i64; 2] {
    ["x", "y"].map(|axis| object[axis].as_i64().unwrap())
}

/// Displacement of `a` from `b` along `direction`.
fn displacement(a: &Value, b: &Value, direction: [i64; 2]) -> i64 {
    (0..2).map(|axis| (at(a)[axis] - at(b)[axis]) * direction[axis]).sum()
}

/// The thirds of the image that contain the centre, as (row, column); fails near a boundary between
/// thirds, where the name would be ambiguous.
fn thirds(object: &Value) -> Result<[&'static str; 2], String> {
    let third = |c: i64, names: [&'static str; 3]| match c {
        0..=20 => Ok(names[0]),
        25..=39 => Ok(names[1]),
        44..64 => Ok(names[2]),
        _ => Err(format!("{c} is near a boundary")),
    };
    let [x, y] = at(object);
    Ok([third(y, ["top", "center", "bottom"])?, third(x, ["left", "center", "right"])?])
}

fn cell(object: &Value) -> Result<String, String> {
    let [row, column] = thirds(object)?;
    Ok(if [row, column] == ["center"; 2] { "center".into() } else { format!("{row} {column}") })
}

fn lies(object: &Value, place: &str) -> Result<bool, String> {
    let [row, column] = thirds(object)?;
    Ok(match place {
        "left" | "right" => column == place,
        "top" | "bottom" => row == place,
        _ => cell(object)? == place,
    })
}

fn split_place(text: &str) -> (&str, Option<&str>) {
    let found = [" in the ", " on the ", " at the "].iter().find_map(|word| text.split_once(word));
    found.map_or((text, None), |(what, place)| (what, Some(place)))
}

/// What is wrong with a caption, if anything: a false statement, an unknown word or an object that
/// it does not mention.
pub fn caption_error(text: &str, scene: &Value) -> Option<String> {
    if text.split(' ').count() > 18 || text != text.to_lowercase() {
        return Some("too long or not in lower case".to_owned());
    }
    check_caption(text, scene).err()
}

fn check_caption(text: &str, scene: &Value) -> Result<(), String> {
    let frames = ["a picture of ", "an image with ", "there is ", "there are "];
    let mut text = frames.iter().find_map(|frame| text.strip_prefix(frame)).unwrap_or(text);
    for tint in TINTS {
        let endings = [format!(" on a {tint} background"), format!(" on {tint}")];
        if let Some(rest) = endings.iter().find_map(|ending| text.strip_suffix(ending.as_str())) {
            ensure(scene["background"] == tint, "background")?;
            text = rest;
        }
    }
    for (words, direction) in RELATIONS {
        if let Some((a, b)) = text.split_once(words) {
            let (first, second) = (the(a, scene)?, the(b, scene)?);
            let along = displacement(first, second, direction);
            let across = displacement(first, second, [direction[1], direction[0]]).abs();
            ensure(along >= 12 && along > across, "relation")?;
            return ensure(scene["objects"].as_array().unwrap().len() == 2, "number of objects");
        }
    }
    let mut total = 0;
    for item in text.replace(" and ", ", ").split(", ") {
        let (what, place) = split_place(item);
        let what = phrase(what)?;
        let found = what.among(scene);
        total += found.len();
        ensure(what.number == Some(found.len()), item)?;
        ensure(place.map_or(Ok(true), |place| lies(found[0], place))?, item)?;
    }
    ensure(total == scene["objects"].as_array().unwrap().len(), "number of objects")
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{what} is wrong")) }
}

fn yes_no(holds: bool) -> Result<String, String> {
    Ok(if holds { "yes" } else { "no" }.to_owned())
}

/// The text between one of the beginnings and one of the endings.
fn between<'a>(text: &'a str, beginnings: &[&str], endings: &[&str]) -> Option<&'a str> {
    let rest = beginnings.iter().find_map(|beginning| text.strip_prefix(beginning))?;
    endings.iter().find_map(|ending| rest.strip_suffix(ending))
}

/// The answer to a question, or the reason why it has none.
pub fn answer(question: &str, scene: &Value) -> Result<String, String> {
    let text = question.strip_suffix('?').ok_or("no question mark")?;
    let endings = [" are there", " are in the picture", " can you see"];
    let counted = between(text, &["how many "], &endings);
    if let Some(what) = counted.or(text.strip_prefix("what is the number of ")) {
        return Ok(count(what, scene)?.to_string());
    }
    if text.ends_with(" background") || text.ends_with(" background have") {
        return Ok(scene["background"].as_str().unwrap().to_owned());
    }
    let shows = ["is there ", "does the picture show ", "can you see "];
    if let Some(what) = between(text, &shows, &[" in the picture", ""]) {
        return yes_no(count(what, scene)? > 0);
    }
    numbers(text, scene)
        .or_else(|| neighbor(text, scene))
        .or_else(|| open(text, scene))
        .unwrap_or_else(|| closed(text, scene))
}

fn two_counts(pair: (&str, &str), scene: &Value) -> Result<(usize, usize), String> {
    let (a, b) = (count(pair.0, scene)?, count(pair.1, scene)?);
    ensure(pair.0 != pair.1 && a + b > 0, "comparison")?;
    Ok((a, b))
}

type Compare = fn(usize, usize) -> bool;

/// The answer or the reason why there is none; `None` for questions of another form.
type Judgement = Option<Result<String, String>>;

/// "are there more circles than squares"
fn numbers(text: &str, scene: &Value) -> Judgement {
    let halves = |beginning: &str, word: &str| text.strip_prefix(beginning)?.split_once(word);
    let same = halves("are there as many ", " as ")
        .or_else(|| halves("is the number of ", " the same as the number of "));
    let judge =
        |pair, holds: Compare| two_counts(pair, scene).and_then(|(a, b)| yes_no(holds(a, b)));
    let more = || halves("are there more ", " than ").map(|pair| judge(pair, |a, b| a > b));
    let fewer = || halves("are there fewer ", " than ").map(|pair| judge(pair, |a, b| a < b));
    same.map(|pair| judge(pair, |a, b| a == b)).or_else(more).or_else(fewer)
}

/// "what shape is the object left of the red circle"
fn neighbor(text: &str, scene: &Value) -> Judgement {
    let (attribute, rest) = text.strip_prefix("what ")?.split_once(" is the object")?;
    let mut relations = RELATIONS.iter();
    let (anchor, direction) =
        relations.find_map(|(words, way)| Some((rest.strip_prefix(words)?, *way)))?;
    let judge = || {
        let anchor = the(anchor, scene)?;
        let objects = scene["objects"].as_array().unwrap().iter();
        let beyond = objects.filter(|other| displacement(other, anchor, direction) > 0);
        match beyond.collect::<Vec<_>>()[..] {
            [only] if displacement(only, anchor, direction) >= 12 => {
                Ok(only[attribute].as_str().unwrap().to_owned())
            }
            ref found => Err(format!("{} objects are there", found.len())),
        }
    };
    Some(judge())
}

/// Questions about an attribute of one object.
fn open(text: &str, scene: &Value) -> Judgement {
    let read = |what: &str, key: &str| {
        the(what, scene).map(|object| object[key].as_str().unwrap().to_owned())
    };
    for key in ["color", "shape", "size"] {
        let beginnings = [format!("what {key} is "), format!("what is the {key} of ")];
        let asked = beginnings.iter().find_map(|beginning| text.strip_prefix(beginning.as_str()));
        let which = format!("which {key} does ");
        if let Some(what) = asked.or_else(|| between(text, &[which.as_str()], &[" have"])) {
            return Some(read(what, key));
        }
    }
    let sized = between(text, &["is "], &[" small, medium or large"]);
    if let Some(what) = sized.or(text.strip_prefix("how large is ")) {
        return Some(read(what, "size"));
    }
    let places = ["where is ", "where in the picture is ", "in which part of the picture is "];
    let what = places.iter().find_map(|beginning| text.strip_prefix(beginning))?;
    Some(the(what, scene).and_then(cell))
}

/// Questions "is the ...": choices between two directions, and yes/no questions.
fn closed(text: &str, scene: &Value) -> Result<String, String> {
    let rest = text.strip_prefix("is ").ok_or("unknown question")?;
    let pair = |(a, b): (&str, &str)| Ok::<_, String>((the(a, scene)?, the(b, scene)?));
    let choices = [
        (" left of or right of ", [-1, 0], ["left", "right"]),
        (" above or below ", [0, -1], ["above", "below"]),
    ];
    for (words, direction, names) in choices {
        if let Some(halves) = rest.split_once(words) {
            let (a, b) = pair(halves)?;
            let far = displacement(a, b, direction);
            ensure(far.abs() >= 12, "clear relation")?;
            return Ok(names[usize::from(far < 0)].to_owned());
        }
    }
    for (words, direction) in RELATIONS {
        if let Some(halves) = rest.split_once(words) {
            let (a, b) = pair(halves)?;
            let far = displacement(a, b, direction);
            ensure(far.abs() >= 12, "clear relation")?;
            return yes_no(far > 0);
        }
    }
    let rank = |object: &Value| SIZES.iter().position(|size| object["size"] == *size).unwrap();
    let compare: [(&str, Compare); 3] = [
        (" larger than ", |a, b| a > b),
        (" smaller than ", |a, b| a < b),
        (" the same size as ", |a, b| a == b),
    ];
    for (words, holds) in compare {
        if let Some(halves) = rest.split_once(words) {
            let (a, b) = pair(halves)?;
            return yes_no(holds(rank(a), rank(b)));
        }
    }
    if let (what, Some(place)) = split_place(rest) {
        return yes_no(lies(the(what, scene)?, place)?);
    }
    let (what, is) = rest.rsplit_once(' ').ok_or("too short")?;
    let object = the(what.strip_suffix(" a").unwrap_or(what), scene)?;
    yes_no(["color", "shape", "size"].iter().any(|key| object[*key] == is))
}
