use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::time::Duration;

use super::*;

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

/// Splits `n` items and counts how often each was done.
fn counted(n: usize, cost: usize, inner: &(dyn Fn() + Sync)) {
    let done: Vec<AtomicU8> = (0..n).map(|_| AtomicU8::new(0)).collect();
    split(n, cost, &|part| {
        assert!(!part.is_empty());
        for i in part {
            done[i].fetch_add(1, Ordering::Relaxed);
            inner();
        }
    });
    assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "{n} items of {cost} ns");
}

#[test]
fn every_item_is_done_once() {
    for threads in [1, 2, 3, 8, 17, 40] {
        pool(threads).install(|| {
            let all = || {
                for n in [0, 1, 2, 3, 7, 64, 1000] {
                    for cost in [0, 1, 300, 2_000, 1_000_000] {
                        counted(n, cost, &|| ());
                    }
                }
            };
            all();
            together(all);
            together(|| together(all));
            together(|| counted(5, 1_000_000, &|| counted(9, 100_000, &|| ())));
            (0..200).for_each(|_| together(|| (0..20).for_each(|_| counted(16, 1_000, &|| ()))));
        });
    }
}

#[test]
fn a_stage_begins_when_the_one_before_is_done() {
    for threads in [1, 2, 3, 8, 17, 40] {
        pool(threads).install(|| {
            let all = |rounds: usize| {
                for round in 0..rounds {
                    let n = [1, 7, 0, 64, 3].map(|n| n + if round % 3 == 0 { 0 } else { round % 50 });
                    let done = n.map(|n| (0..n).map(|_| AtomicU8::new(0)).collect::<Vec<_>>());
                    let times = |stage: usize, times: u8| done[stage].iter().all(|done| done.load(Ordering::Relaxed) == times);
                    let work = [0, 1, 2, 3, 4].map(|stage| {
                        let (done, times) = (&done, &times);
                        move |parts: &mut Parts<'_>| {
                            assert!((0..stage).all(|before| times(before, 1)), "stage {stage}");
                            for i in parts.flatten() {
                                done[stage][i].fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                    let cost = [0, 10_000, 500, 1_000, 300][round % 5];
                    let all: [Stage<'_>; 5] = std::array::from_fn(|stage| Stage::of(n[stage], cost, &work[stage]));
                    stages(&all);
                    assert!((0..5).all(|stage| times(stage, 1)), "round {round}: {n:?}");
                }
            };
            all(10);
            together(|| all(200));
        });
    }
}

#[test]
fn another_thread_takes_part() {
    let threads = Mutex::new(std::collections::BTreeSet::new());
    pool(2).install(|| {
        together(|| {
            let wait = || std::thread::sleep(Duration::from_millis(2));
            (0..500).take_while(|_| threads.lock().expect("no panic").len() < 2).for_each(|_| {
                split(8, 2_000_000, &|_| {
                    wait();
                    threads.lock().expect("no panic").insert(rayon::current_thread_index());
                });
            });
        });
    });
    assert_eq!(threads.lock().expect("no panic").len(), 2);
}

#[test]
fn nobody_waits_for_a_thread_that_does_not_come() {
    let (busy, done) = (AtomicBool::new(false), AtomicBool::new(false));
    pool(2).install(|| {
        rayon::join(
            || {
                while !busy.load(Ordering::Acquire) {
                    yield_now();
                }
                together(|| (0..100).for_each(|_| counted(16, 10_000, &|| ())));
                done.store(true, Ordering::Release);
            },
            || {
                busy.store(true, Ordering::Release);
                // Holds the other thread until all is done without it.
                while !done.load(Ordering::Acquire) {
                    yield_now();
                }
            },
        );
    });
}

#[test]
fn who_waits_for_a_thread_gets_one_that_stands_by() {
    let (pool, helped, came) = (pool(2), AtomicBool::new(false), AtomicBool::new(false));
    let began = std::time::Instant::now();
    let in_time = || began.elapsed() < Duration::from_secs(60); // or never: the test fails then
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !helped.load(Ordering::Acquire) && in_time() {
                yield_now();
            }
            on(&pool, || came.store(true, Ordering::Release));
        });
        let came_meanwhile = on(&pool, || {
            let leader = rayon::current_thread_index();
            together(|| {
                while !came.load(Ordering::Acquire) && in_time() {
                    split(8, 10_000, &|_| {
                        if rayon::current_thread_index() != leader {
                            helped.store(true, Ordering::Release);
                        }
                        (0..100).for_each(|_| spin_loop());
                    });
                }
                came.load(Ordering::Acquire)
            })
        });
        assert!(came_meanwhile, "it came only when nobody stood by any more");
    });
}

#[test]
fn nobody_takes_part_while_another_waits() {
    let (team, taken) = (Team::default(), AtomicBool::new(false));
    unsafe fn take(taken: *const (), _: &mut Parts<'_>) {
        // SAFETY: it is `taken`, which outlives the test's use of it.
        unsafe { (*taken.cast::<AtomicBool>()).store(true, Ordering::Relaxed) }
    }
    let home = &team.homes[1];
    home.work.store((&raw const taken).cast_mut().cast(), Ordering::Relaxed);
    home.call.store(take as Call as *mut (), Ordering::Relaxed);
    home.homes.store(2, Ordering::Relaxed);
    home.items.store(packed(0..1), Ordering::Release);
    WAITING.fetch_add(1, Ordering::Relaxed);
    team.stand_by(1);
    let meanwhile = taken.load(Ordering::Relaxed);
    WAITING.fetch_sub(1, Ordering::Relaxed);
    assert!(!meanwhile, "it took part");
    // More than once, since other tests wait for threads too.
    (0..1000).take_while(|_| !taken.load(Ordering::Relaxed)).for_each(|_| team.stand_by(1));
    assert!(taken.load(Ordering::Relaxed), "there was nothing to take part in");
}

fn caught(work: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_pool_whole() {
    let pool = pool(3);
    for culprit in [0, 30, 63] {
        let work = || split(64, 100_000, &|part| assert!(!part.contains(&culprit), "item {culprit}, as the test wants"));
        assert!(caught(|| pool.install(|| together(work))), "item {culprit}");
        pool.install(|| together(|| counted(64, 100_000, &|| ())));
    }
    for (threads, culprit) in
        [2, 3, 8].into_iter().flat_map(|threads| [0, 30, 63, 64, 100, 127, 150].map(|culprit| (threads, culprit)))
    {
        let (pool, begun) = (self::pool(threads), AtomicU8::new(0));
        let stage = |number: usize| {
            let begun = &begun;
            move |parts: &mut Parts<'_>| {
                begun.fetch_max(number as u8, Ordering::Relaxed);
                for i in parts.flatten() {
                    assert_ne!(64 * number + i, culprit, "as the test wants");
                }
            }
        };
        let (a, b, c) = (stage(0), stage(1), stage(2));
        let work = || stages(&[Stage::of(64, 100_000, &a), Stage::of(64, 100_000, &b), Stage::of(64, 100_000, &c)]);
        assert!(caught(|| pool.install(|| together(work))), "item {culprit}");
        assert_eq!(usize::from(begun.load(Ordering::Relaxed)), culprit / 64, "a stage begun after a panic");
        pool.install(|| together(|| counted(64, 100_000, &|| ())));
    }
    assert!(caught(|| pool.install(|| together(|| panic!("as the test wants")))));
    pool.install(|| counted(64, 100_000, &|| ()));
}
