//! `palimpsest-bindgen swift|kotlin|python LIBRARY FOLDER`: reads what UniFFI left in the built library and writes the
//! language's side of it into the folder. Generated code is never committed.

use std::process::ExitCode;

use camino::Utf8PathBuf;
use uniffi_bindgen::bindings::{GenerateOptions, TargetLanguage, generate};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [language, library, folder] = args.as_slice() else {
        eprintln!("usage: palimpsest-bindgen swift|kotlin|python LIBRARY FOLDER");
        return ExitCode::from(2);
    };
    let language = match language.as_str() {
        "swift" => TargetLanguage::Swift,
        "kotlin" => TargetLanguage::Kotlin,
        "python" => TargetLanguage::Python,
        other => {
            eprintln!("{other:?} is no language known here: swift, kotlin or python");
            return ExitCode::from(2);
        }
    };
    let options = GenerateOptions {
        languages: vec![language],
        source: Utf8PathBuf::from(library),
        out_dir: Utf8PathBuf::from(folder),
        config_override: None,
        format: false,
        crate_filter: Some("palimpsest_ffi".into()),
        metadata_no_deps: true,
    };
    match generate(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{library}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
