//! Where do weights lie? One after another in pieces of mapped memory, in large pages where the system has them.
//!
//! A decode step reads every weight once: of 30 MB in pages of 4 KiB, a processor knows the addresses of a quarter, and looks up
//! the others in memory, page by page. Linux has pages of 2 MiB for who asks, and for memory that is there in one piece.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{MmapMut, MmapRaw};

/// Bytes of a piece: many matrices of a small reader. Memory is there when touched, so that what is left costs less than a large page; but a
/// piece goes as a whole, with the last of its matrices. What is half as large has a piece of its own.
const SLAB: usize = 8 << 20;
/// What begins in a piece begins with a panel's line.
const ALIGN: usize = 128;

/// The piece that is not full yet, and how much of it is taken.
static OPEN: Mutex<(Weak<MmapRaw>, usize)> = Mutex::new((Weak::new(), 0));

/// Types for which any bytes will do, zeros too, and whose alignment divides [`ALIGN`].
///
/// # Safety
/// As said.
pub(crate) unsafe trait Plain: Copy {}

/// Elements in a slab: a vector that does not grow.
pub(crate) struct Slab<T> {
    at: *mut T,
    len: usize,
    /// What `at` points into.
    _map: Option<Arc<MmapRaw>>,
}

// SAFETY: it owns its elements, as a vector does.
unsafe impl<T: Send> Send for Slab<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Slab<T> {}

impl<T> Slab<T> {
    pub(crate) const EMPTY: Self = Self { at: std::ptr::dangling_mut(), len: 0, _map: None };
}

impl<T: Plain> Slab<T> {
    /// `len` elements of zeros.
    ///
    /// # Panics
    /// As a vector does, when they are more than there are addresses.
    pub(crate) fn zeros(len: usize) -> Self {
        const { assert!(ALIGN.is_multiple_of(align_of::<T>())) };
        let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_next_multiple_of(ALIGN));
        let bytes = bytes.expect("more bytes than there are addresses");
        if bytes == 0 {
            return Self::EMPTY;
        }
        let (map, from) = if bytes >= SLAB / 2 { (Arc::new(map(bytes)), 0) } else { share(bytes) };
        // SAFETY: `from` and what is behind it lie in the map.
        let at = unsafe { map.as_mut_ptr().add(from) };
        Self { at: at.cast(), len, _map: Some(map) }
    }
}

/// So many bytes of a piece, from where.
fn share(bytes: usize) -> (Arc<MmapRaw>, usize) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (map, from) = match open.0.upgrade() {
        Some(map) if bytes <= map.len() - open.1 => (map, open.1),
        _ => (Arc::new(map(SLAB)), 0),
    };
    *open = (Arc::downgrade(&map), from + bytes);
    (map, from)
}

/// Memory of zeros, in large pages if the system has them.
fn map(bytes: usize) -> MmapRaw {
    let Ok(map) = MmapMut::map_anon(bytes) else {
        handle_alloc_error(Layout::from_size_align(bytes, ALIGN).unwrap_or(Layout::new::<[u8; SLAB]>()));
    };
    #[cfg(target_os = "linux")]
    // Without large pages it is as fast as it was.
    let _ = map.advise(memmap2::Advice::HugePage);
    map.into()
}

impl<T> Deref for Slab<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many elements are there, of zeros at first, which `Plain` allows; nobody else has them; the map lives as long.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

impl<T> DerefMut for Slab<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: integers.
    unsafe impl Plain for u64 {}

    #[test]
    fn each_has_its_own_zeros() {
        // Many of a slab, then one that has its own.
        for lens in [[1, 100, 1 << 17, 3], [SLAB, 5, 0, SLAB / 8]] {
            let mut slabs = lens.map(Slab::<u64>::zeros);
            for (i, slab) in slabs.iter_mut().enumerate() {
                assert_eq!(slab.len(), lens[i], "{lens:?}");
                assert!(slab.is_empty() || slab.as_ptr().addr().is_multiple_of(ALIGN), "{lens:?}");
                assert!(slab.iter().all(|x| *x == 0), "{i} of {lens:?}");
                slab.fill(i as u64 + 1);
            }
            for (i, slab) in slabs.iter().enumerate() {
                assert!(slab.iter().all(|x| *x == i as u64 + 1), "{i} of {lens:?}");
            }
        }
    }
}
