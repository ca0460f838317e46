//! How does a large file come in as a slice? Mapped: read when touched, and in no one's memory but the system's.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, read-only.
///
/// The file must keep its length while it is mapped: who cuts it short ends this process at the next look at what is gone, as
/// with any mapping. Bytes that another process changes may change here.
#[derive(Debug)]
pub struct Mapped {
    /// `None` for an empty file, which not every system maps.
    map: Option<memmap2::Mmap>,
}

impl Mapped {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: bytes are only read, and any values of them are valid; the length is the documented duty of whoever owns the file.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_in_whole_and_an_empty_one_too() {
        let path = std::env::temp_dir().join(format!("palimpsest-mapped-{}", std::process::id()));
        for bytes in [&b""[..], b"x", &[7; 70_000]] {
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(&*Mapped::open(&path).expect("mapped"), bytes);
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(Mapped::open(&path).is_err(), "a file that is not there");
    }
}
