#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]
use burn::tensor::Device;
use calumma::report::Reporter;
use calumma::train::*;
#[global_allocator]
static G: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    calumma::allocator::tune();
    let a: Vec<String> = std::env::args().collect();
    let p = std::path::Path::new(&a[2]);
    let sets = &a[3..];
    let d = Device::flex();
    let stop = StopFlag::default();
    let r: Result<(), calumma::Error> = (|| {
        match a[1].as_str() {
            "vq" => {
                let r: VqRecipe = read_recipe(p, sets)?;
                let mut t = ImageTask::new(r.clone(), &d)?;
                let s = run(
                    &mut t,
                    &r.run,
                    &r.schedule,
                    r.optimizer.lr,
                    Reporter::bar(r.run.steps as u64, "pictures"),
                    &stop,
                )?;
                println!("{s:?}");
            }
            "lm" => {
                let r: LanguageRecipe = read_recipe(p, sets)?;
                let mut t = LanguageTask::new(r.clone(), &d, false)?;
                for l in t.preview()?.iter().take(12) {
                    println!("{l}");
                }
                let mut t = LanguageTask::new(r.clone(), &d, false)?;
                let s = run(
                    &mut t,
                    &r.run,
                    &r.schedule,
                    r.optimizer.lr,
                    Reporter::bar(r.run.steps as u64, "tokens"),
                    &stop,
                )?;
                println!("{s:?}");
            }
            "bpe" => {
                let r: BpeRecipe = read_recipe(p, sets)?;
                let texts = corpus(&r.data, r.run.documents, r.run.seed)?;
                println!("{} texts", texts.len());
                let t = calumma::tokenize::train_bpe(&r.bpe, texts)?;
                let dir = r.run.directory.join(&r.run.name);
                std::fs::create_dir_all(&dir).unwrap();
                t.save(&dir.join("tokenizer.json"))?;
            }
            _ => panic!(),
        }
        Ok(())
    })();
    if let Err(e) = r {
        eprintln!("error: {e}");
        std::process::exit(i32::from(e.exit_code()));
    }
}
