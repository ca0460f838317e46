//! Scores of folders in BEIR's form, with other settings than the defaults if they are named:
//! `cargo run --release -p palimpsest-index --example retrieval -- [k1=1.2] [b=0.75] [min=500] [max=1000] FOLDER…`

use palimpsest_index::{IndexError, Options, measure};

fn main() -> Result<(), IndexError> {
    let mut options = Options::default();
    for argument in std::env::args().skip(1) {
        let setting = argument.split_once('=').and_then(|(name, value)| Some((name, value.parse::<f32>().ok()?)));
        match setting {
            Some(("k1", k1)) => options.weights.k1 = k1,
            Some(("b", b)) => options.weights.b = b,
            Some(("min", min)) => options.bounds.min_bytes = min as usize,
            Some(("max", max)) => options.bounds.max_bytes = max as usize,
            _ => {
                let began = std::time::Instant::now();
                let scores = measure::evaluate_in(argument.as_ref(), &options)?;
                println!("{argument}: {scores:?} in {:.1} s", began.elapsed().as_secs_f64());
            }
        }
    }
    Ok(())
}
