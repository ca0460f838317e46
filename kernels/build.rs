//! Packs the GPU's kernels, which `src/cuda/embedded.rs` embeds: machine code and PTX become a fifth as large.

use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).expect("Cargo names a folder");
    for name in ["kernels.cubin", "kernels.ptx"] {
        let file = Path::new("cuda/code").join(name);
        println!("cargo:rerun-if-changed={}", file.display());
        std::fs::write(out.join(name), miniz_oxide::deflate::compress_to_vec(&std::fs::read(file)?, 9))?;
    }
    Ok(())
}
