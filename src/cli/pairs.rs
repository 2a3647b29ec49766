//! `calumma data pairs`: answers ranked by rewards, as rows of preferences.

use std::path::{Path, PathBuf};

use calumma::checkpoint::write_directory;
use calumma::recipe::read_recipe;
use calumma::report::Omission;
use calumma::tokenize::CodedSegment;
use calumma::train::LanguageRecipe;
use calumma::train::Task;
use calumma::train::rl::{LeftPrompts, RankedPair, RlTask};
use calumma::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use super::session::{Session, name};

/// Arguments of `data pairs`.
#[derive(Args)]
pub struct PairsArgs {
    /// TOML recipe with [rl]: prompts, how they are answered, and what is rewarded
    recipe: PathBuf,
    /// Directory to create, with pairs.jsonl and images
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of prompts that are answered, rounded up to whole steps of rl.prompts_per_step
    #[arg(long, value_name = "N")]
    count: usize,
    /// Adapter directory of the model that answers, in place of the recipe's [adapter]
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Override a recipe value, such as rl.advantage.num_generations=16; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Writes the best and the worst answer to each prompt.
///
/// # Errors
/// Those of recipe, data, device, generation and rewards.
pub fn run(args: &PairsArgs, session: &Session) -> Result<()> {
    let mut recipe: LanguageRecipe = read_recipe(&args.recipe, &args.set)?;
    if let Some(seed) = session.seed() {
        recipe.run.seed = seed;
    }
    let Some(rl) = &mut recipe.rl else {
        return Err(Error::file(&args.recipe, "has no [rl], whose rewards are to rank answers"));
    };
    rl.dynamic_sampling = 0;
    rl.critic = None;
    rl.policy.beta = 0.0;
    let of_step = rl.prompts_per_step;
    recipe.validation.clear();
    if let Some(dir) = &args.adapter {
        (recipe.adapter, recipe.run.init_adapter) = (None, Some(dir.clone()));
    }
    let mut found = Found::default();
    write_directory(&args.out, |dir| {
        // Codes of images in prompts.
        let work = dir.join("work");
        recipe.run.directory = work.clone();
        found = Writer { dir, session }.write(recipe, args.count.div_ceil(of_step))?;
        match work.exists() {
            true => std::fs::remove_dir_all(&work).map_err(Error::io(&work)),
            false => Ok(()),
        }
    })?;
    let Found { pairs, left, reward, template, omissions } = found;
    let out = args.out.display();
    session.line(format_args!("{out}: {pairs} pairs, template {template:?}"))?;
    let [chosen, rejected] = reward.map(|sum| sum / pairs as f64);
    session.line(format_args!("  mean reward {chosen:.4} of chosen, {rejected:.4} of rejected"))?;
    for (count, why) in left.by_reason().into_iter().filter(|(count, _)| *count > 0) {
        session.line(format_args!("  {count} prompts left out: {why}"))?;
    }
    session.left_out(&omissions)?;
    session.object(&json!({
        "path": name(&args.out), "pairs": pairs, "template": template,
        "mean_reward": [chosen, rejected], "ties": left.ties, "incomplete": left.incomplete,
        "unrewarded": left.unrewarded, "control_tokens": left.control_tokens, "left_out": omissions,
    }))
}

/// What was written.
#[derive(Default)]
struct Found {
    pairs: usize,
    left: LeftPrompts,
    /// The template that the pairs are to be trained with.
    template: &'static str,
    /// Sums of rewards of chosen and rejected answers.
    reward: [f64; 2],
    omissions: Vec<Omission>,
}

/// Writes pairs into a directory.
struct Writer<'a> {
    dir: &'a Path,
    session: &'a Session,
}

impl Writer<'_> {
    /// Answers the prompts of `steps` steps of `recipe` and writes the pairs.
    fn write(&self, recipe: LanguageRecipe, steps: usize) -> Result<Found> {
        let session = self.session;
        let device = session.device()?;
        let mut task = RlTask::new(recipe, &device, session.precision(), session.quiet())?;
        let images = self.dir.join("images");
        std::fs::create_dir(&images).map_err(Error::io(&images))?;
        let (mut found, mut rows) = (Found::default(), String::new());
        let mut progress = session.progress(steps, "pairs");
        let mut separated = 0;
        for step in 0..steps {
            let ranked = task.ranked_pairs()?;
            found.left += ranked.left;
            for pair in &ranked.pairs {
                rows += &format!("{}\n", self.row(&task, found.pairs, pair)?);
                found.pairs += 1;
                separated += usize::from(pair.is_separated);
                found.reward.iter_mut().zip(pair.rewards).for_each(|(sum, reward)| *sum += reward);
            }
            progress.step(step + 1, ranked.pairs.len());
        }
        progress.finish();
        found.template = match separated {
            0 => "{prompt}<answer>{answer}",
            all if all == found.pairs => "{prompt}<sep>{answer}",
            _ => {
                let message = "some prompts end with a separator and some do not; make pairs of each source alone";
                return Err(Error::invalid(message));
            }
        };
        if found.pairs == 0 {
            let reasons = found.left.by_reason().map(|(count, why)| format!("{count} with {why}"));
            let message = format!("no pair was made; prompts: {}", reasons.join(", "));
            return Err(Error::invalid(message));
        }
        found.omissions = task.left_out();
        let path = self.dir.join("pairs.jsonl");
        std::fs::write(&path, rows).map_err(Error::io(&path))?;
        Ok(found)
    }

    /// The row of pair `number`, whose images are written.
    fn row(&self, task: &RlTask, number: usize, pair: &RankedPair) -> Result<Value> {
        let side = |side: &str, segments: &[CodedSegment]| -> Result<Vec<Value>> {
            let mut all = Vec::with_capacity(segments.len());
            for (at, segment) in segments.iter().enumerate() {
                all.push(match segment {
                    CodedSegment::Image(codes) => {
                        let file = format!("images/{number:06}-{side}-{at}.png");
                        let path = self.dir.join(&file);
                        let image = task.decoded(codes)?;
                        image.save(&path).map_err(Error::in_file(&path))?;
                        json!({ "type": "image", "path": file })
                    }
                    CodedSegment::Text(text) | CodedSegment::Special(text) => {
                        json!({ "type": "text", "text": text })
                    }
                });
            }
            if all.is_empty() {
                all.push(json!({ "type": "text", "text": "" }));
            }
            Ok(all)
        };
        Ok(json!({
            "prompt": side("prompt", &pair.prompt)?,
            "chosen": side("chosen", &pair.chosen)?,
            "rejected": side("rejected", &pair.rejected)?,
            "rewards": pair.rewards,
        }))
    }
}
