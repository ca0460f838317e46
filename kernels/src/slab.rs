//! Where do weights lie? One after another in pieces of mapped memory, in large pages where the system has them.
//!
//! A decode step reads every weight once: of 30 MB in pages of 4 KiB, a processor knows the addresses of a quarter, and looks up
//! the others in memory, page by page. Linux has pages of 2 MiB for who asks, and for memory that is there in one piece.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::MmapMut;

/// Bytes of a piece: many matrices of a small reader. Memory is there when touched, so that what is left costs nothing; but a piece goes
/// as a whole, with the last of its matrices.
const SLAB: usize = 8 << 20;
/// What begins in a piece begins with a panel's line.
const ALIGN: usize = 128;

/// The piece that is not full yet, where it begins, and how much of it is taken.
static OPEN: Mutex<(Weak<MmapMut>, usize, usize)> = Mutex::new((Weak::new(), 0, 0));

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
    _map: Option<Arc<MmapMut>>,
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
    pub(crate) fn zeros(len: usize) -> Self {
        const { assert!(ALIGN.is_multiple_of(align_of::<T>())) };
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN);
        if bytes == 0 {
            return Self::EMPTY;
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, from) = match open.0.upgrade() {
            Some(map) if open.2 + bytes <= map.len() => (map, open.2),
            _ => {
                let Ok(mut map) = MmapMut::map_anon(bytes.max(SLAB)) else {
                    handle_alloc_error(Layout::new::<[u8; SLAB]>());
                };
                #[cfg(target_os = "linux")]
                // Without large pages it is as fast as it was.
                let _ = map.advise(memmap2::Advice::HugePage);
                open.1 = map.as_mut_ptr().expose_provenance();
                let map = Arc::new(map);
                open.0 = Arc::downgrade(&map);
                (map, 0)
            }
        };
        open.2 = from + bytes;
        Self { at: std::ptr::with_exposed_provenance_mut(open.1 + from), len, _map: Some(map) }
    }
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
