//! Scores of folders in BEIR's form: `cargo run --release -p palimpsest-index --example retrieval -- FOLDER…`

fn main() -> Result<(), palimpsest_index::IndexError> {
    for folder in std::env::args().skip(1) {
        let began = std::time::Instant::now();
        let scores = palimpsest_index::measure::evaluate(folder.as_ref())?;
        println!("{folder}: {scores:?} in {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}
