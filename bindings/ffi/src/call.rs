//! Work off the caller's thread, with its panics caught.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::PalimpsestError;

/// Runs `work`; a panic comes out as an error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, PalimpsestError>) -> Result<T, PalimpsestError> {
    // What a panic may have left half-done lies behind locks that forgive it, or is dropped with the panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(PalimpsestError::Internal(said(panic.as_ref()))))
}

/// Runs `work` on a thread of this library.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PalimpsestError> + Send + 'static,
) -> Result<T, PalimpsestError> {
    blocking::unblock(|| guarded(work)).await
}

/// Panics inside, so that a host can see what it gets then: a failure of kind `Internal`, after which everything goes on.
#[uniffi::export]
#[expect(clippy::missing_panics_doc, reason = "it is caught")]
pub async fn rehearse_panic() -> Result<(), PalimpsestError> {
    off_thread(|| panic!("as a rehearsal")).await
}

fn said(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a part of Palimpsest panicked ({}): please report it", words.unwrap_or("without words"))
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn a_panic_comes_out_as_an_error_with_its_words() {
        let failed = block_on(off_thread::<u32>(|| panic!("the sum is {}", 7)));
        assert!(matches!(&failed, Err(PalimpsestError::Internal(said)) if said.contains("the sum is 7")), "{failed:?}");
        assert_eq!(block_on(off_thread(|| Ok(3))), Ok(3), "the threads go on");
    }
}
