//! Is the library that was built here loadable where pages are 16 KiB?
#![cfg(target_os = "linux")]

const LOAD: u32 = 1;

#[test]
fn every_segment_lies_on_pages_of_16_kib() {
    // Beside the test, where Cargo puts the libraries it links.
    let test = std::env::current_exe().expect("a path");
    let library = test.with_file_name("libpalimpsest_ffi.so");
    let elf = std::fs::read(&library).unwrap_or_else(|e| panic!("{}: {e}", library.display()));
    assert_eq!(&elf[..5], b"\x7fELF\x02", "a 64-bit ELF file");
    let number = |at: usize, bytes: usize| elf[at..at + bytes].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let (table, entry, entries) = (number(0x20, 8) as usize, number(0x36, 2) as usize, number(0x38, 2) as usize);
    let segments: Vec<usize> = (0..entries).map(|n| table + n * entry).filter(|at| number(*at, 4) == u64::from(LOAD)).collect();
    assert!(segments.len() >= 2, "code and data");
    for at in segments {
        let (offset, address, align) = (number(at + 0x08, 8), number(at + 0x10, 8), number(at + 0x30, 8));
        assert!(align >= 16384 && align.is_power_of_two(), "a segment at {address:#x} is aligned to {align}");
        assert_eq!(offset % 16384, address % 16384, "a segment at {address:#x}");
    }
}
